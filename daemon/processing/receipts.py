"""The receipt of an upload that every destination has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from daemon import SOFTWARE
from daemon.errors import StateFullError
from daemon.journal.model import Delivery, Envelope, Upload
from pipeline import receipt as receipts


def make_receipt(
    upload: Upload, envelope: Envelope, deliveries: Sequence[Delivery], stored_at: float
) -> receipts.Receipt:
    """The receipt of an upload whose deliveries are all stored and whose digest is known."""
    return receipts.build(
        receipts.Subject(
            upload=upload.id,
            tus_id=upload.tus_id,
            study=upload.study or "",
            filename=upload.filename,
            size=upload.identity.size,
            digest=upload.digest or "",
            received_at=upload.received_at or stored_at,
            stored_at=stored_at,
        ),
        receipts.Encryption(
            format=envelope.format,
            recipients=envelope.fingerprints,
            size=deliveries[0].size,
        ),
        [
            receipts.record(delivery.destination, delivery.stored, delivery.stored_at or stored_at)
            for delivery in deliveries
            if delivery.stored is not None
        ],
        SOFTWARE,
    )


class ReceiptFiles:
    """The directory that keeps them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def keep(self, receipt: receipts.Receipt) -> None:
        """Write the receipt's file, durably. Raises StateFullError where that fails."""
        try:
            await asyncio.to_thread(receipts.write, self._directory, receipt)
        except OSError as error:
            raise StateFullError(f"the receipt can't be written: {error.strerror}") from error
