"""Stores that meterd brings along for development and tests: a Valkey and a Postgres as child processes over a directory."""
