"""Settings of the database and the blob store, read once at each entry point."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from db.logs import LogFormat
from db.vocabulary.limits import OwnerLimits

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
#: What is raised when settings cannot be read.
UNREADABLE = (ValidationError, SettingsError)
#: Exit status of a process that no restart can help (EX_CONFIG of sysexits.h).
CONFIG_STATUS = 78


#: Files that the service makes are its user's alone (0600), and so are folders (0700).
PRIVATE_UMASK = 0o077


def explain(error: ValidationError | SettingsError) -> str:
    """Say in a sentence which environment variable is wrong, and how."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"IDEFIQ_{str(each['loc'][0]).upper() if each['loc'] else '…'}: {each['msg']}"
            for each in error.errors(include_url=False)
        )
    return f"a setting that has to be JSON is none: {error}"


class SubmissionSettings(BaseSettings):
    """What a submission may be: the API checks jobs and chats, upkeep the lines of batches."""

    model_config = SettingsConfigDict(
        env_prefix="IDEFIQ_", frozen=True, extra="ignore", protected_namespaces=()
    )

    max_lines: Count = Field(
        5_000_000, description="Most lines of a streamed submission, or of a batch's input file"
    )
    max_line_bytes: Count = Field(32 * 2**20, description="Longest of these lines")
    max_upload_bytes: Count = Field(
        20 * 2**20, description="Largest image in an upload or a submission"
    )
    model_aliases: dict[str, str] = Field(
        {},
        description="Aliases of models for OpenAI clients, as JSON such as"
        ' {"gpt-4o-mini": "demo"}; the same for the API and upkeep',
    )

    def resolve_alias(self, model: str) -> str:
        """Return the model that an alias stands for; any other name as it is."""
        return self.model_aliases.get(model, model)


class StorageSettings(BaseSettings):
    """Where jobs, items and blobs are stored. Environment variables start with `IDEFIQ_`."""

    model_config = SettingsConfigDict(env_prefix="IDEFIQ_", frozen=True, extra="ignore")

    database_url: str = Field(
        "sqlite:///data/idefiq.db",
        description="SQLAlchemy URL: sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME",
    )
    database_pool: Annotated[int, Field(ge=1, le=200)] = Field(
        8,
        description="Most database connections of a process; intake workers open at least"
        " IDEFIQ_INTAKE_FETCHES + 4",
    )
    store: Literal["folder", "s3"] = Field(
        "folder", description="Where images and files are stored: folder or s3"
    )
    store_folder: Path = Field(Path("data/blobs"), description="Folder of the folder store")
    s3_bucket: str = Field("", description="Bucket of the s3 store; `idefiq migrate` creates it")
    s3_prefix: str = Field("", description="Prefix of every key in the bucket")
    s3_endpoint: str = Field("", description="Endpoint URL of an S3 store other than AWS")
    s3_region: str = Field("us-east-1", description="Region of the bucket")
    s3_access_key: str = Field("", description="Access key; empty to let boto3 find credentials")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="Secret key")
    s3_path_style: bool = Field(
        True,
        description="Put the bucket into the path, not the host name; most stores other than AWS"
        " need it",
    )
    s3_connect_timeout_seconds: Seconds = Field(3.0, description="Timeout of a connection to S3")
    s3_read_timeout_seconds: Seconds = Field(20.0, description="Timeout of a read from S3")
    max_queued_items: Annotated[int, Field(ge=0)] = Field(
        0, description="Most unfinished items of an owner; 0 for no limit"
    )
    max_job_items: Annotated[int, Field(ge=0)] = Field(
        0, description="Most items of a job; 0 for no limit"
    )
    max_stored_bytes: Annotated[int, Field(ge=0)] = Field(
        0, description="Most bytes of an owner in the store; 0 for no limit"
    )
    log_format: LogFormat = Field(
        "text", description="Format of logs: text for people, json for programs"
    )
    traces_url: str = Field(
        "",
        description="OTLP/HTTP endpoint for traces, such as http://127.0.0.1:4318/v1/traces; empty"
        " for none. OpenTelemetry's own variables apply too, such as OTEL_TRACES_SAMPLER",
    )
    failpoints: dict[str, str] = Field(
        {}, description="For tests: failpoints to arm, as JSON; see db/failpoints.py"
    )
    lease_seconds: Seconds = Field(
        20.0, description="A worker without a heartbeat for this long loses its leases"
    )
    heartbeat_seconds: Seconds = Field(5.0, description="Time between heartbeats of a worker")
    max_tries: Annotated[int, Field(ge=1, le=100)] = Field(
        5, description="Most attempts at an item before a retryable error becomes final"
    )
    retry_seconds: Seconds = Field(
        2.0, description="Delay of the first retry; doubles with each retry, up to five minutes"
    )

    @property
    def limits(self) -> OwnerLimits:
        """Limits of owners without limits of their own."""
        return OwnerLimits(
            max_queued_items=self.max_queued_items,
            max_job_items=self.max_job_items,
            max_stored_bytes=self.max_stored_bytes,
        )
