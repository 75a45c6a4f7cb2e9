"""Numbered SQL for the master database and for each tenant's database; `engine.migrations` runs it."""
