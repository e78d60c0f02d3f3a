"""Automations in Prefect: failed runs and changes of the live model are sent to the webhook of ANIME_GENRE_NOTIFY_URL.

A run that the drift guard stopped has failed, and its message says so. Changes of the live model are the events of
`tasks.rollouts`. The address is in a block, which Prefect encrypts.

An automation that a person edits or switches off in Prefect stays: automations.json in the workspace has what was last
written, and an automation on the server that differs from it is a person's.
"""

import json
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict
from pydantic import SecretStr

from infra.files import write_bytes
from tasks.rollouts import ROLLOUT_EVENT

NOTE = "automations.json"
FAILED_RUNS = "anime-genre: failed runs"
LIVE_MODEL = "anime-genre: changes of the live model"
_BLOCK = "anime-genre-notify"
_LONGEST = 2000  # characters of a run's message; that of the drift guard has a table
_FAILED = (
    "event.resource['prefect.resource.name'] ~ ' (' ~ event.resource['prefect.state-name'] ~ '): ' "
    f"~ event.resource['prefect.state-message']|truncate({_LONGEST}) ~ ' ' ~ flow_run|ui_url"
)
_CHANGED = (
    "event.payload.after ~ ' is live' ~ (' instead of ' ~ event.payload.before if event.payload.before else '') "
    "~ ' (' ~ event.payload.what ~ ', by ' ~ event.payload.by ~ '). ' ~ event.payload.reason"
)


def write_automations(url: SecretStr | None, deployments: list[str], note: Path) -> None:
    """Create or update the automations on the server; delete them if `url` is None. A person's edits stay, and work.

    Args:
        url: the webhook. It gets JSON with a `text`, as Slack's incoming webhooks do.
        deployments: the names of those whose failed runs are sent.
        note: the file with what was last written, and the names of the automations that a person edited.
    """
    written, edited = dict(_read(note).get("written", {})), []
    with get_client(sync_client=True) as client:
        wanted = _automations(_save_block(url), deployments) if url else {}
        for name in sorted({*written, *wanted}):
            found = client.read_automations_by_name(name)
            if found and name in written and _content(found[0]) not in (written[name], _content(wanted.get(name))):
                edited.append(name)
                continue
            written.pop(name, None)
            if name not in wanted:
                for each in found:
                    client.delete_automation(each.id)
                continue
            if not found:
                client.create_automation(wanted[name])
            elif _content(found[0]) != _content(wanted[name]):
                client.update_automation(found[0].id, wanted[name])
            written[name] = _content(wanted[name])
        if url is None and not edited:  # which keep the block's id for ever
            _delete_block(client)
    write_bytes(note, json.dumps({"written": written, "edited": edited}, indent=2).encode())


def edited_automations(note: Path) -> list[str]:
    """The names of the automations that a person edited, as of the last `write_automations`."""
    return list(_read(note).get("edited", []))


def _automations(block_id: UUID, deployments: list[str]) -> dict[str, AutomationCore]:
    failed = EventTrigger(
        posture=Posture.Reactive,
        threshold=1,
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "deployment", "prefect.resource.name": deployments},
        for_each={"prefect.resource.id"},
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
    )
    changed = EventTrigger(
        posture=Posture.Reactive, threshold=1, for_each={"prefect.resource.id"}, expect={ROLLOUT_EVENT}
    )
    about = {
        FAILED_RUNS: ("A run that failed or crashed is sent to the webhook.", failed, _FAILED),
        LIVE_MODEL: ("A promotion or rollback is sent to the webhook.", changed, _CHANGED),
    }
    return {
        name: AutomationCore(
            name=name,
            description=description,
            trigger=trigger,
            actions=[CallWebhook(block_document_id=block_id, payload=f'{{"text": {{{{ ({text})|tojson }}}} }}')],
        )
        for name, (description, trigger, text) in about.items()
    }


def _content(automation: AutomationCore | None) -> dict[str, Any] | None:
    if automation is None:
        return None
    content = automation.model_dump(mode="json", include={"description", "enabled", "trigger", "actions"})
    return cast(dict[str, Any], _ordered(content))


def _ordered(value: Any) -> Any:
    """A JSON value with sorted lists. A trigger's events are a set, whose order differs between processes."""
    if isinstance(value, dict):
        return {name: _ordered(inner) for name, inner in value.items()}
    return sorted(map(_ordered, value), key=str) if isinstance(value, list) else value


def _save_block(url: SecretStr) -> UUID:
    block = Webhook(url=url, headers=SecretDict({"Content-Type": "application/json"}))
    return cast(UUID, block.save(_BLOCK, overwrite=True))


def _delete_block(client: SyncPrefectClient) -> None:
    try:
        block = client.read_block_document_by_name(_BLOCK, Webhook.get_block_type_slug(), include_secrets=False)
    except ObjectNotFound:
        return
    client.delete_block_document(block.id)


def _read(note: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        return {}
