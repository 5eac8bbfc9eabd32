"""The draw before the opening: closing the list, giving everyone a place, and letting anyone verify both."""
