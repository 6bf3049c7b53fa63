"""The team's workspace in W&B, as code: `crescendo dashboard`."""
