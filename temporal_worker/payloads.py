"""What workflows send and get, as JSON with these names. Bytes."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class QuotaCheckInput:
    """For `CheckQuotaAndCleanup`."""

    workspaceId: str
    incomingImageSizeEstimate: int = 0


@dataclass(frozen=True)
class CleanedImage:
    """A tag that was cleaned; an image's freed bytes are on its first."""

    appName: str
    tag: str
    sizeBytes: int


@dataclass(frozen=True)
class QuotaCheckResult:
    """Of `CheckQuotaAndCleanup`."""

    cleanupPerformed: bool = False
    currentUsageBytes: int = 0
    quotaBytes: int = 0
    cleanedImages: list[CleanedImage] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True)
class TrackImageInput:
    """For `TrackImage`."""

    workspaceId: str
    appId: str
    tag: str
    digest: str = ""
    registryUrl: str = ""
    repository: str = ""


@dataclass(frozen=True)
class TrackImageResult:
    """Of `TrackImage`."""

    sizeBytes: int = 0
    newTotalUsage: int = 0
    error: str = ""


@dataclass(frozen=True)
class BuildInput:
    """For the example workflow."""

    workspaceId: str
    appId: str
    registryType: str
    registryUrl: str
    registryRepository: str
    imageTag: str
    incomingImageSizeEstimate: int = 0
    failClosed: bool = False
    """No build without a check that found nothing wrong; its owner's choice."""


@dataclass(frozen=True)
class BuildResult:
    """Of the platform's own activity `BuildImage`, and of the example workflow."""

    success: bool = False
    imageDigest: str = ""
    error: str = ""
