"""One upload by GHGA's kit, in a process of its own, as its batch command starts them.

Run by the Python that has the kit; see :mod:`tests.bench.ghga`. Encryption, the digests and the
upload are the kit's. What it does afterwards, download all of it again to check it, is left out: a
server that keeps nothing can't give it back. Arguments: the endpoint, the file, a directory for
what it writes.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ghga_datasteward_kit.s3_upload.config import (  # type: ignore[import-not-found,unused-ignore]
    LegacyConfig,
)
from ghga_datasteward_kit.s3_upload.uploader import (  # type: ignore[import-not-found,unused-ignore]
    ChunkedUploader,
)
from ghga_datasteward_kit.s3_upload.utils import (  # type: ignore[import-not-found,unused-ignore]
    HttpxClientState,
    StorageCleaner,
    check_adjust_part_size,
)


async def upload(endpoint: str, file: Path, directory: str) -> None:
    config = LegacyConfig(
        s3_endpoint_url=endpoint,
        s3_access_key_id="bench",
        s3_secret_access_key="bench",
        bucket_id="ghga-bench",
        output_dir=directory,
    )
    size = file.stat().st_size  # noqa: ASYNC240  # nothing else is waiting for this loop
    check_adjust_part_size(config=config, file_size=size)
    HttpxClientState.configure(5)
    async with StorageCleaner(config=config) as cleaner:
        await ChunkedUploader(
            input_path=file,
            alias=file.stem,
            config=config,
            unencrypted_file_size=size,
            storage_cleaner=cleaner,
        ).encrypt_and_upload()


if __name__ == "__main__":
    asyncio.run(upload(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
