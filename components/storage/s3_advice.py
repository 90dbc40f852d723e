"""What a user can do about an error of S3: try again later only where that can help."""

import botocore.exceptions as failures
from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from botocore.exceptions import ClientError

WITHOUT_CHECKSUMS = (
    "If it takes no aws-chunked bodies, as some servers other than AWS, set "
    "AWS_REQUEST_CHECKSUM_CALCULATION=when_required and run again."
)
NO_CREDENTIALS = (
    failures.NoCredentialsError
    | failures.PartialCredentialsError
    | failures.CredentialRetrievalError
    | failures.TokenRetrievalError
    | failures.SSOError
)
ADVICE = {
    "NoSuchBucket": "Create the bucket, or name one that exists.",
    "NoSuchKey": "An object is gone: store it again.",
    "404": "An object is gone: store it again.",
    "AccessDenied": "These credentials may not do that: ask for read and write rights, or use others.",
    "403": "These credentials may not read that: ask for rights, or use others.",
    "InvalidAccessKeyId": "Check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL.",
    "SignatureDoesNotMatch": f"Check AWS_SECRET_ACCESS_KEY. {WITHOUT_CHECKSUMS}",
    "NotImplemented": f"That server refuses this for good. {WITHOUT_CHECKSUMS}",
    "ExpiredToken": "Log in again, or renew AWS_SESSION_TOKEN.",
    "InvalidToken": "Log in again, or renew AWS_SESSION_TOKEN.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
    "PermanentRedirect": "Set AWS_REGION to the bucket's region.",
    "AuthorizationHeaderMalformed": "Set AWS_REGION to the bucket's region.",
}
REFUSED = (400, 403, 405, 411, 501)
"""HTTP statuses of a request that the server will never take as it is."""


def advice_on(error: Exception) -> str | None:
    """What a user can do about an error of S3, or None for a bug in quantgate."""
    while isinstance(error, S3UploadFailedError) and isinstance(error.__context__, Exception):
        error = error.__context__
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.response.get("Error", {}).get("Code", "")
        return ADVICE.get(code) or _advice_on_status(status)
    if isinstance(error, failures.FlexibleChecksumError):
        return "The bytes changed in transfer or on that server's disks: run again, or store the model again."
    if isinstance(error, failures.ConnectionError | failures.HTTPClientError | RetriesExceededError):
        return "Check AWS_ENDPOINT_URL, the network and that the server runs."
    if isinstance(error, failures.ParamValidationError):
        return "Check the bucket's name."
    if isinstance(error, NO_CREDENTIALS):
        return "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and AWS_ENDPOINT_URL for your own S3."
    return None


def _advice_on_status(status: int) -> str | None:
    """What a user can do about an error whose code says nothing more."""
    if status in REFUSED:
        return f"That server refuses this for good (HTTP {status}). {WITHOUT_CHECKSUMS}"
    return "The server has failed: try again later." if status >= 500 else None
