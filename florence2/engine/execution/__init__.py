"""How work is run: jobs, the runners, what a worker holds, and one unit annotated."""
