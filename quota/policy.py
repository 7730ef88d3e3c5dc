"""What a workspace allows cleanup to do: the rules of cleanup.md as frozen data. PURE.

`Policy` is what the planner and the hook's arithmetic read; `PolicyDocument` is its JSON form in
the API and in the ledger. Ratios are held in parts per million, so that no comparison ever depends
on how a float was rounded.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from registry.globs import REPOSITORY, TAG, ImpossibleGlob, NameGrammar, check_glob

PPM: Final = 1_000_000
"""Parts per million in a whole."""

SECOND_NS: Final = 1_000_000_000
DAY_S: Final = 86_400

_MAX_COUNT: Final = 1_000_000
_MAX_SECONDS: Final = 100 * 366 * DAY_S
_DURATION: Final = re.compile(r"(\d{1,10})([smhd])", re.ASCII)
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": DAY_S}


Order = Literal["named", "semver"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When cleanup starts, how far it goes, and what it must leave. Defaults are cleanup.md's."""

    trigger_ppm: int = 800_000
    """Cleanup is asked for from this share of the quota on (usage + reserved + incoming)."""
    target_ppm: int = 700_000
    """Cleanup ends at or below this share of the quota."""
    keep_newest: int = 3
    """Newest of each kind in every app that stay while the target can be reached without them."""
    keep_at_least: int = 2
    """Newest of each kind in every app that stay in any case. Never more than `keep_newest`."""
    order: Order = "named"
    """Which images of an app are its newest: those named last, or those of the highest versions."""
    min_age_s: int = 0
    """Seconds since a tag came to name it that an image is left alone."""
    keep_tags: tuple[str, ...] = ()
    """Glob patterns (`*`, `?`, `[a-z]`; case matters): an image with a tag that matches stays."""
    cache_repositories: tuple[str, ...] = ("*/cache",)
    """Glob patterns of repositories in which builders keep layers under tags of 64 hexadecimal digits."""
    keep_pulled_days: int | None = None
    """Days since its last pull (a GET; a HEAD only asks) that an image stays; None: pulls protect nothing."""
    untagged_grace_s: int = 3600
    """Seconds that an untagged manifest stays after its last push, tag or parent."""
    max_images_per_run: int = 500
    """A run that would delete more images than this is refused."""
    max_ratio_per_run_ppm: int = 500_000
    """A run that would delete a larger share of the workspace's images is refused."""


DEFAULT_POLICY: Final = Policy()


def _ratio(value: object) -> int:
    """A JSON number between 0 and 1 → parts per million, exactly."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        # Pydantic turns a ValueError, not a TypeError, into an error of the field.
        raise ValueError("must be a number above 0 and at most 1, such as 0.8")  # noqa: TRY004
    # str() of a float is the shortest text that means it: what the person wrote.
    exact = Decimal(str(value))
    if not exact.is_finite() or not 0 < exact <= 1:
        raise ValueError("must be above 0 and at most 1, such as 0.8")
    scaled = exact * PPM
    if scaled != int(scaled):
        raise ValueError("can have at most six decimal places")
    return int(scaled)


def _seconds(value: object) -> int:
    """Whole seconds as a JSON number, or text such as `90s`, `30m`, `1h`, `7d` → seconds."""
    seconds = -1
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = int(match[1]) * _UNIT_SECONDS[match[2]]
    elif isinstance(value, int) and not isinstance(value, bool):
        seconds = value
    if not 0 <= seconds <= _MAX_SECONDS:
        raise ValueError('must be whole seconds from 0 on, or text such as "30m", "1h", "7d"')
    return seconds


_Ratio = Annotated[
    int,
    BeforeValidator(_ratio),
    PlainSerializer(lambda ppm: ppm / PPM, return_type=float),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
]
_Seconds = Annotated[
    int,
    BeforeValidator(_seconds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": _MAX_SECONDS},
                {"type": "string", "pattern": "^[0-9]{1,10}[smhd]$"},
            ]
        }
    ),
]


def _default_ratio(ppm: int) -> JsonDict:
    """The default in the schema, as people write it."""
    return {"default": ppm / PPM}


_Glob = Annotated[str, Field(min_length=1, max_length=256)]
GLOB_FIELDS: Final[Mapping[str, NameGrammar]] = {
    "keep_tags": TAG,
    "cache_repositories": REPOSITORY,
}
"""Fields of globs → the grammar of what they are to match."""


class PolicyDocument(BaseModel):
    """The `policy` object of the API. Everything left out has its default.

    Strict: unknown fields, wrong types and rules that contradict each other are refused, and the
    error's location names the field.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    trigger: _Ratio = Field(
        default=DEFAULT_POLICY.trigger_ppm,
        description="Share of the quota from which on cleanup is asked for.",
        json_schema_extra=_default_ratio(DEFAULT_POLICY.trigger_ppm),
    )
    target: _Ratio = Field(
        default=DEFAULT_POLICY.target_ppm,
        description="Share of the quota at which cleanup ends; below `trigger`.",
        json_schema_extra=_default_ratio(DEFAULT_POLICY.target_ppm),
    )
    keep_newest: int = Field(
        default=DEFAULT_POLICY.keep_newest,
        ge=1,
        le=_MAX_COUNT,
        description="Newest of each kind (images, charts …) in every app that stay while the target can be reached so.",
    )
    keep_at_least: int = Field(
        default=DEFAULT_POLICY.keep_at_least,
        ge=1,
        le=_MAX_COUNT,
        description="Newest of each kind in every app that stay in any case; at most `keep_newest`.",
    )
    order: Order = Field(
        default=DEFAULT_POLICY.order,
        description="What makes an app's images newer than others: `named`, when a tag last came to name"
        " them; `semver`, their highest version (`v1.2.3`, `1.2`), what has none behind all that have one.",
    )
    min_age: _Seconds = Field(
        default=DEFAULT_POLICY.min_age_s,
        description="Images that a tag came to name within this time stay: seconds, or text such as"
        ' "12h". A push that repeats what the tag named is no news.',
    )
    keep_tags: tuple[_Glob, ...] = Field(
        default=DEFAULT_POLICY.keep_tags,
        max_length=100,
        strict=False,  # a JSON array arrives as a list
        description="Globs (`*`, `?`, `[a-z]`, case matters) for whole tags: images with such a tag stay.",
    )
    cache_repositories: tuple[_Glob, ...] = Field(
        default=DEFAULT_POLICY.cache_repositories,
        max_length=100,
        strict=False,
        description="Globs for whole repository names: what only has tags of 64 hexadecimal digits there"
        " is a build cache (kaniko, buildah). Caches hold no places and go before images.",
    )
    keep_pulled_days: Annotated[int, Field(ge=1, le=36_600)] | None = Field(
        default=DEFAULT_POLICY.keep_pulled_days,
        description="Images fetched (GET; a HEAD only asks) within so many days stay; null: pulls protect nothing.",
    )
    untagged_grace: _Seconds = Field(
        default=DEFAULT_POLICY.untagged_grace_s,
        description="Time that an untagged manifest stays after its last push, tag or parent.",
    )
    max_images_per_run: int = Field(
        default=DEFAULT_POLICY.max_images_per_run,
        ge=1,
        le=_MAX_COUNT,
        description="A run that would delete more images is refused.",
    )
    max_ratio_per_run: _Ratio = Field(
        default=DEFAULT_POLICY.max_ratio_per_run_ppm,
        description="A run that would delete a larger share of the images is refused.",
        json_schema_extra=_default_ratio(DEFAULT_POLICY.max_ratio_per_run_ppm),
    )

    @field_validator(*GLOB_FIELDS)
    @classmethod
    def _can_match(cls, globs: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Refuse what no name can match, except in what is kept already."""
        field = info.field_name
        if field is None or info.context is None or field not in info.context:
            return globs
        wrong: list[InitErrorDetails] = []
        for place, glob in enumerate(globs):
            try:
                check_glob(glob, GLOB_FIELDS[field])
            except ImpossibleGlob as error:
                wrong.append(cls._contradiction(place, str(error)))
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return globs

    @model_validator(mode="after")
    def _without_contradictions(self) -> Self:
        wrong: list[InitErrorDetails] = []
        if self.target >= self.trigger:
            message = (
                f"must be below trigger ({self.target / PPM} is not below {self.trigger / PPM})"
            )
            wrong.append(self._contradiction("target", message))
        if self.keep_at_least > self.keep_newest:
            message = f"must be at most keep_newest ({self.keep_at_least} is more than {self.keep_newest})"
            wrong.append(self._contradiction("keep_at_least", message))
        if wrong:
            # Raised as a ValidationError, because a plain ValueError here would name no field.
            raise ValidationError.from_exception_data(type(self).__name__, wrong)
        return self

    @staticmethod
    def _contradiction(field: str | int, message: str) -> InitErrorDetails:
        kind = PydanticCustomError("contradiction", "{message}", {"message": message})
        return InitErrorDetails(type=kind, loc=(field,), input=None)

    def to_policy(self) -> Policy:
        """What the planner reads."""
        return Policy(
            trigger_ppm=self.trigger,
            target_ppm=self.target,
            keep_newest=self.keep_newest,
            keep_at_least=self.keep_at_least,
            order=self.order,
            min_age_s=self.min_age,
            keep_tags=self.keep_tags,
            cache_repositories=self.cache_repositories,
            keep_pulled_days=self.keep_pulled_days,
            untagged_grace_s=self.untagged_grace,
            max_images_per_run=self.max_images_per_run,
            max_ratio_per_run_ppm=self.max_ratio_per_run,
        )


class InvalidPolicy(ValueError):  # noqa: N818 - says what it is
    """The policy contradicts itself or has fields or values that there are not."""

    def __init__(self, errors: tuple[tuple[str, str], ...]) -> None:
        """Takes (field, what is wrong with it), at least one."""
        self.errors = errors
        super().__init__("; ".join(f"policy.{field}: {message}" for field, message in errors))


def parse_policy(document: Mapping[str, Any]) -> Policy:
    """The `policy` object as the ledger keeps it → the policy. Raises InvalidPolicy.

    Patterns that can match nothing are read: an earlier release took them.
    """
    return _validated(document, frozenset())


def change_policy(before: Policy, changes: Mapping[str, Any]) -> Policy:
    """The policy with what the API's `policy` object says; what it leaves out stays.

    Rules may contradict those that stay, so they are read together. Raises InvalidPolicy, also for
    a pattern among the changes that can match nothing.
    """
    return _validated({**policy_document(before), **changes}, frozenset(changes))


def _validated(document: Mapping[str, Any], checked: frozenset[str]) -> Policy:
    try:
        return PolicyDocument.model_validate(document, context=checked).to_policy()
    except ValidationError as error:
        raise InvalidPolicy(
            tuple(
                (".".join(str(part) for part in problem["loc"]), _told(problem))
                for problem in error.errors(include_url=False)
            )
        ) from None


def _told(problem: ErrorDetails) -> str:
    """Pydantic's words, those for a common slip in ours."""
    if problem["type"] == "extra_forbidden":
        return "there is no such field; there are " + ", ".join(PolicyDocument.model_fields)
    if problem["type"] == "tuple_type":
        return "must be a list"
    return problem["msg"].removeprefix("Value error, ")


def policy_document(policy: Policy) -> dict[str, Any]:
    """The policy as the API shows it and the ledger keeps it; `parse_policy` reads it back."""
    return {
        "trigger": policy.trigger_ppm / PPM,
        "target": policy.target_ppm / PPM,
        "keep_newest": policy.keep_newest,
        "keep_at_least": policy.keep_at_least,
        "order": policy.order,
        "min_age": policy.min_age_s,
        "keep_tags": list(policy.keep_tags),
        "cache_repositories": list(policy.cache_repositories),
        "keep_pulled_days": policy.keep_pulled_days,
        "untagged_grace": policy.untagged_grace_s,
        "max_images_per_run": policy.max_images_per_run,
        "max_ratio_per_run": policy.max_ratio_per_run_ppm / PPM,
    }
