"""Job files: what starts a run on many machines, by torchrun, Slurm, Kubernetes, Vertex AI or SkyPilot."""
