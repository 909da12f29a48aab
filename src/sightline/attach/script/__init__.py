"""The door for a whole script: what is listened to under `sightline run`, and what is made of it."""
