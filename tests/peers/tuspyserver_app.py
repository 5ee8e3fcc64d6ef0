"""tuspyserver in a FastAPI application, as its users run it.

`python -m tests.peers.tuspyserver_app DIRECTORY PORT`
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from tuspyserver import create_tus_router


def main(directory: str, port: int) -> None:
    """Serve uploads at /files until a signal."""
    app = FastAPI()
    app.include_router(create_tus_router(prefix="files", files_dir=directory))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
