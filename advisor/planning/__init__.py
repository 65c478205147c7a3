"""From a global batch to a training plan: its cut, learning rate, schedule, time, cost and statistical efficiency."""
