"""What a pre-create hook commonly is: a Python script that asks the REST API with a HAWK library.

This is the way that dropoffd replaces; it is measured, not used. The environment holds the API's
URL and the credentials; standard input holds what tusd tells.
"""

import json
import os
import sys

import mohawk
import requests


def main() -> int:
    event = json.load(sys.stdin)
    upload = event["Event"]["Upload"]
    metadata = upload["MetaData"]
    body = json.dumps(
        {
            "study": metadata["study"],
            "filename": metadata["filename"],
            "size": upload["Size"],
            "metadata": metadata,
            "client": event["Event"]["HTTPRequest"]["RemoteAddr"],
            "server": "tusd",
            "tus_id": None,
        }
    )
    url = os.environ["SEED_URL"] + "uploads/"
    credentials = {
        "id": os.environ["SEED_KEY"],
        "key": os.environ["SEED_SECRET"],
        "algorithm": "sha256",
    }
    kind = "application/json"
    sender = mohawk.Sender(credentials, url, "POST", content=body, content_type=kind)
    headers = {
        "Authorization": sender.request_header,
        "Content-Type": kind,
        "Idempotency-Key": os.urandom(16).hex(),
    }
    answer = requests.post(url, data=body, headers=headers, timeout=30)
    answer.raise_for_status()
    return 0


if __name__ == "__main__":
    sys.exit(main())
