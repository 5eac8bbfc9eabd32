"""The gRPC servicers of inventory: unpack, call, pack."""
