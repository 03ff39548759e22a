"""Starts both stores over a directory, says where they are, and waits to be killed: a program for test_embedded."""

from __future__ import annotations

import json
import pathlib
import sys

from meterd.embedded import postgres, valkey


def main(directory: pathlib.Path) -> None:
    redis = valkey.Valkey(directory)
    database = postgres.Postgres(directory)
    redis.start()
    database.start()
    print(json.dumps({"url": redis.url, "dsn": database.dsn, "pids": [redis.pid, database.pid]}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
