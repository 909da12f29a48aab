"""How a trained model breaks: attacks on its pictures, corrupted pictures, changed words, and contradictions."""
