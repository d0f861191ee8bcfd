"""Agents that steer a run while it trains: what they see, how they vote, what they decided."""
