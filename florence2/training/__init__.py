"""Training: from a config to a checkpoint. Importing this loads no torch."""

from florence2.training.command import train
from florence2.training.config import DataSource, TrainConfig
from florence2.training.config_files import read_config

__all__ = ["DataSource", "TrainConfig", "read_config", "train"]
