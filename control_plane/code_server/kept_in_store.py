"""Outputs and step logs in an object store, with STORE=s3, in the layout that the volumes have.

The gap: dagster-aws takes the account from variables of the process (object_store.py). Its log
manager fails a step whose logs cannot be uploaded. Both have other names for files than Dagster's
managers for volumes, so nothing could be moved by copying. This module could be deleted if
dagster-aws took a client, and kept a log that it cannot upload.
"""

import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from dagster import InputContext, IOManagerDefinition, OutputContext, StringSource, io_manager
from dagster._core.storage.cloud_storage_compute_log_manager import (
    PollingComputeLogSubscriptionManager,
    TruncatingCloudStorageComputeLogManager,
)
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._core.storage.local_compute_log_manager import (
    IO_TYPE_EXTENSION,
    LocalComputeLogManager,
)
from dagster._core.storage.upath_io_manager import (
    UPathIOManager,
    escape_dotdot_segments,
    escape_leading_slash,
)
from dagster._serdes import ConfigurableClassData
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
from dagster_aws.s3.io_manager import PickledObjectS3IOManager
from upath import UPath

from control_plane.code_server.object_store import (
    LOGS,
    OUTPUTS,
    VOLUMES,
    ObjectStore,
    required,
)

LEFT = (
    "The output {} stays in the volume compute-logs, and can be read there. `make move-to-store`"
    " moves it. The object store says: {}"
)


class StoredOutputs(PickledObjectS3IOManager):
    """Dagster's I/O manager for S3. What is not in the store yet, it reads from the volume."""

    def __init__(self, store: ObjectStore) -> None:
        """Raises an error of boto3 when the bucket cannot be listed."""
        self.base = store.key(OUTPUTS)
        super().__init__(store.settings.bucket, store.client, self.base)

    def get_op_output_relative_path(self, context: InputContext | OutputContext) -> UPath:
        """As in the volume."""
        return UPathIOManager.get_op_output_relative_path(self, context)

    def make_safe_partition_path(self, base_path: UPath, partition: str) -> UPath:
        """As in the volume, where `..` cannot be the name of a file."""
        return base_path / escape_dotdot_segments(escape_leading_slash(partition))

    def load_from_path(self, context: InputContext, path: UPath) -> Any:  # noqa: ANN401 # any value
        """Raises FileNotFoundError when neither the store nor the volume has it."""
        try:
            return super().load_from_path(context, path)
        except FileNotFoundError:
            kept = self._in_volume(path)
            if not kept.is_file():
                raise
            with kept.open("rb") as file:
                return pickle.load(file)  # noqa: S301 # the same value, from the same code

    def path_exists(self, path: UPath) -> bool:
        """Whether the store or the volume has it."""
        return super().path_exists(path) or self._in_volume(path).is_file()

    def _in_volume(self, path: UPath) -> Path:
        return VOLUMES[OUTPUTS] / Path(path.as_posix()).relative_to(self.base)


@io_manager(description="Stores and retrieves values in an object store, using pickling.")
def _outputs(_: object) -> StoredOutputs:
    return StoredOutputs(required())


# What DAGSTER_DEFAULT_IO_MANAGER_ATTRIBUTE names.
outputs: IOManagerDefinition = _outputs


class ObjectStoreLogs(S3ComputeLogManager):
    """Captures a step's output in the volume, and moves it to the store when the step has ended."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        """Connects to nothing yet.

        Args:
            base_dir: The folder that logs are captured in.
            inst_data: What dagster.yaml says.
        """
        # Not S3ComputeLogManager's: it connects to what variables of the process say.
        TruncatingCloudStorageComputeLogManager.__init__(self)  # pyright: ignore[reportUnknownMemberType] # upstream's
        self.folder = Path(base_dir).resolve()
        self._local_manager = LocalComputeLogManager(base_dir)
        self._subscription_manager = PollingComputeLogSubscriptionManager(self)
        self._inst_data = inst_data
        self._skip_empty_files = self._show_url_only = False
        self._upload_interval = self._upload_extra_args = None

    @property
    def _s3_session(self) -> Any:  # noqa: ANN401 # boto3 has no types
        return required().client

    @property
    def _s3_bucket(self) -> str:
        return required().settings.bucket

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The folder."""
        return {"base_dir": StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """Builds it from its section of dagster.yaml."""
        return cls(inst_data=inst_data, **config_value)

    def _s3_key(self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False) -> Any:  # noqa: ANN401 # upstream says LiteralString
        path = self.local_manager.get_captured_local_path(log_key, IO_TYPE_EXTENSION[io_type])
        return required().key(LOGS, *Path(path).relative_to(self.folder).parts)

    def _on_capture_complete(self, log_key: Sequence[str]) -> None:
        """A step does not fail because its output stays where it is."""
        try:
            super()._on_capture_complete(log_key)
        except Exception as error:
            said = LEFT.format("/".join(log_key), " ".join(str(error).split()))
            run = self._instance.get_run_by_id(log_key[0]) if self.has_instance else None
            if run:
                self._instance.report_engine_event(said, run)
            else:  # of a schedule or sensor
                sys.stderr.write(f"{said}\n")

    def delete_logs(
        self, log_key: Sequence[str] | None = None, prefix: Sequence[str] | None = None
    ) -> None:
        """Deletes a log, or all below a prefix, in the volume and in the store."""
        self.local_manager.delete_logs(log_key=log_key, prefix=prefix)
        if prefix:
            required().delete_below(LOGS, *prefix)
        for io_type in IO_TYPE_EXTENSION if log_key else ():
            required().delete(self._s3_key(log_key or (), io_type))
