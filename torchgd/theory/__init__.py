"""What follows from ŷ being linear in w: the whole path, the minimum, the rates."""
