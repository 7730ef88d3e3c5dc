from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CheckQuotaRequest(_message.Message):
    __slots__ = ("workspace_id", "incoming_image_size_estimate")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    INCOMING_IMAGE_SIZE_ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    workspace_id: str
    incoming_image_size_estimate: int
    def __init__(self, workspace_id: _Optional[str] = ..., incoming_image_size_estimate: _Optional[int] = ...) -> None: ...

class CheckQuotaResponse(_message.Message):
    __slots__ = ("cleanup_performed", "current_usage_bytes", "quota_bytes", "cleaned_images", "error")
    CLEANUP_PERFORMED_FIELD_NUMBER: _ClassVar[int]
    CURRENT_USAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUOTA_BYTES_FIELD_NUMBER: _ClassVar[int]
    CLEANED_IMAGES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    cleanup_performed: bool
    current_usage_bytes: int
    quota_bytes: int
    cleaned_images: _containers.RepeatedCompositeFieldContainer[CleanedImage]
    error: str
    def __init__(self, cleanup_performed: _Optional[bool] = ..., current_usage_bytes: _Optional[int] = ..., quota_bytes: _Optional[int] = ..., cleaned_images: _Optional[_Iterable[_Union[CleanedImage, _Mapping]]] = ..., error: _Optional[str] = ...) -> None: ...

class CleanedImage(_message.Message):
    __slots__ = ("app_name", "tag", "size_bytes")
    APP_NAME_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    app_name: str
    tag: str
    size_bytes: int
    def __init__(self, app_name: _Optional[str] = ..., tag: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class TrackImageRequest(_message.Message):
    __slots__ = ("workspace_id", "app_id", "tag", "digest", "registry_url", "repository")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_URL_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    workspace_id: str
    app_id: str
    tag: str
    digest: str
    registry_url: str
    repository: str
    def __init__(self, workspace_id: _Optional[str] = ..., app_id: _Optional[str] = ..., tag: _Optional[str] = ..., digest: _Optional[str] = ..., registry_url: _Optional[str] = ..., repository: _Optional[str] = ...) -> None: ...

class TrackImageResponse(_message.Message):
    __slots__ = ("size_bytes", "new_total_usage", "error")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    NEW_TOTAL_USAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    new_total_usage: int
    error: str
    def __init__(self, size_bytes: _Optional[int] = ..., new_total_usage: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...
