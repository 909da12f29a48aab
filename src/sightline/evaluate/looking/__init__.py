"""Does the model look? The same questions with another image, a blurred one, noise or none, and pairs that flip."""
