"""One short visit to a GPU: steps that resume, goals, a page about them; see ``gpu_proof.sh``."""
