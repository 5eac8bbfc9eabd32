"""What people carry: signed places, passes for a lane, receipts."""
