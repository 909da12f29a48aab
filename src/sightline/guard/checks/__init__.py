"""One check a file, in the room where its fix is made. How to write one: `sightline.guard.check`."""
