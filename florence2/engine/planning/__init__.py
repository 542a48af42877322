"""Who reads whom, what a change reaches, and damaged fragments made again."""
