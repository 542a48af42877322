"""Scores any callable from samples to results: predictions first, in a file, then scores from that file.

samples -> eval items -> the callable -> predictions.jsonl -> score -> scores.json
"""

from florence2.evaluation.comparison import compare
from florence2.evaluation.run import evaluate

__all__ = ["compare", "evaluate"]
