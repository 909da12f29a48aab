"""The guard: evidence <- check <- checks <- catalogue <- watch. It judges runs, and never imports who trains them."""
