"""What a script saves, reads back and goes on from, against what it should have."""
