"""Results of commands as text for people."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from gif_datasets.io.units import aligned, duration_text, size_text
from gif_datasets.methods import (
    CLASSIFIER,
    CONFIRMATION,
    DIFFUSION,
    GUIDANCE,
    IMG2IMG,
    INTERPOLATION,
    NOVELTY,
    PERTURBATION,
    REDRAWS,
    SELECTION,
    STRENGTH,
)

MOST_NAMES = 5  # of images
MOST_LISTED = 2  # values of a list, where methods are listed


def merge_text(value: dict[str, Any]) -> str:
    """What a merge made."""
    return (
        f"{value['originals']} seeds + {value['synthetic']} imagined samples of {value['classes']} classes, every shard"
        f" and record whole\nshards:  {value['folder']}/data ({value['shards']} files, {size_text(value['bytes'])})"
    )


def plan_text(value: dict[str, Any]) -> str:
    """What a plan estimates: samples, time, memory and cost."""
    share = value["stages"][value["bottleneck"]] / value["seconds"]
    stages = "\n".join(f"  {name:<26} {duration_text(seconds)}" for name, seconds in value["stages"].items())
    validation = f", {value['validation']} held out" if value["validation"] else ""
    device = f", {size_text(value['device_memory'])} on the accelerator" if value["device_memory"] else ""
    samples = f"{value['originals']} seeds + {value['synthetic']} imagined samples{validation}"
    disk = f"{value['shards']} shards, {size_text(value['bytes'])}, and about as much again in the cache"
    where = f"with {value['workers']} workers on {value['device']}; {size_text(value['memory'])} of memory{device}"
    lines = [
        f"{samples}: {disk}",
        f"{duration_text(value['seconds'])} {where}",
        stages,
        f"largest stage, {share:.0%}: {value['bottleneck']}",
    ]
    for row in value["machines"]:
        price = "" if row["price"] is None else f", {row['price']:.3g}"
        many = f"{row['machines']:>3} machines like this, {row['workers']} workers"
        lines.append(f"{many}: {duration_text(3600 * row['hours'])}{price}")
    return "\n".join(lines)


def difference_text(value: dict[str, Any]) -> str:
    """What an update would do, and what it would take."""
    found = value["difference"]
    left = "stay in the folder" if found["left_stay"] else "will be removed"
    lines = [
        f"{count} {what}: {_names(names)}"
        for names, what in (
            (found["new"], "new, and made now"),
            (found["changed"], "changed, and removed as they were"),
            (found["left"], f"no longer in the source, and {left}"),
            (found["refused"], "withdrawn before, and left out"),
        )
        if (count := len(names))
    ]
    lines.append(
        f"{found['same']} seeds stay; {found['copies']} copies to make, {found['shards']} shards to add,"
        f" {found['rewritten']} to write again: generation {found['generation']}"
    )
    lines += [f"kept from the first generation: {', '.join(found['kept'])}"] if found["kept"] else []
    return "\n".join(lines + ([plan_text(value["estimate"])] if value["estimate"] else []))


def _names(names: list[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")


def expand_text(value: dict[str, Any]) -> str:
    """What an expansion made, or what its other parts must still make."""
    if value["missing"]:
        apart = ", or in separate folders, followed by `gif-datasets merge`" if value["generation"] == 1 else ""
        return (
            f"{value['shards']} shards of this part in {value['folder']}/data ({size_text(value['bytes'])}) in"
            f" {value['seconds']} s; {value['missing']} belong to other parts: run those with the same --out{apart}"
        )
    changed = value["generated"] or value["added"] or value["withdrawn"]
    fresh = f"{value['generated']} made now" if changed else "nothing to do, already complete"
    validation = f", {value['validation']} seeds held out" if value["validation"] else ""
    failed = (
        f"check:   {value['failed']} samples failed it in every draw; the best draw was kept\n"
        if value["failed"]
        else ""
    )
    return (
        _own_class_text(value)
        + _generation_text(value)
        + f"{value['originals']} seeds + {value['synthetic']} imagined samples of {value['classes']} classes"
        f"{validation} ({fresh}) in {value['seconds']} s\n"
        f"{failed}shards:  {value['folder']}/data ({value['shards']} files, {size_text(value['bytes'])})\n"
        f"preview: {value['preview']}"
    )


def _generation_text(value: dict[str, Any]) -> str:
    """What an update changed; empty in a first expansion."""
    if value["generation"] == 1:
        return ""
    changed = f"{value['added']} seeds added, {value['withdrawn']} removed"
    return f"generation {value['generation']}: {changed}\n"


def preview_text(value: dict[str, Any]) -> str:
    """What a preview shows."""
    return (
        _own_class_text(value)
        + f"{value['rows']} seeds and {value['rows'] * value['copies']} copies: {value['picture']}"
        + _guides_text(value["guides"])
    )


_KINDS_OF_GUIDE = {"text": "words", "both": "words and means", "linear": "linear head", "head": "own head"}
"""Heads of the columns of :func:`_guides_text`."""


def _guides_text(guides: list[dict[str, Any]]) -> str:
    """Which guide names the seeds best, after a table of all; empty where none was compared."""
    if not guides:
        return ""
    kinds = [kind for kind in _KINDS_OF_GUIDE if any(kind in one["accuracy"] for one in guides)]
    rows = [
        ("prior's own" if one["guide"] == "prior" else one["guide"], *(_share_of(one, kind) for kind in kinds))
        for one in guides
    ]
    best = max(guides, key=lambda one: one["accuracy"][one["best"]])
    how = [] if best["guide"] == "prior" else [f"--guide {best['guide']}"]
    how += [] if best["best"] == "head" else [f"--set classifier={best['best']}"]
    title = f"balanced accuracy on {guides[0]['seeds']} seeds, each left out of what names it:"
    return "\n".join(
        [
            "",
            title,
            *aligned([("guide", *(_KINDS_OF_GUIDE[kind] for kind in kinds)), *rows]),
            f"best: {best['accuracy'][best['best']]:.0%} by {' '.join(how)}",
        ]
    )


def _share_of(guide: dict[str, Any], kind: str) -> str:
    return f"{guide['accuracy'][kind]:.0%}" if kind in guide["accuracy"] else "-"


def _own_class_text(value: dict[str, Any]) -> str:
    """A line about how many copies look like their class; empty where no prior made them."""
    if value["own_class"] is None:
        return ""
    return (
        f"{value['own_class']:.0%} of the copies look like their class to the classifier,"
        f" {value['own_class_real']:.0%} of the real images do\n"
    )


def withdraw_text(value: dict[str, Any]) -> str:
    """What a withdrawal removed."""
    if not value["seeds"]:
        return "nothing to do, withdrawn before"
    unmixed = f", {value['unmixed']} of them copies of other seeds that showed them" if value["unmixed"] else ""
    return (
        f"{len(value['seeds'])} seeds withdrawn: {_names(value['seeds'])}\n"
        f"{value['samples']} samples removed{unmixed}; {value['rewritten']} shards written again,"
        f" {value['removed']} removed: generation {value['generation']} of {value['folder']}\n"
        f"{value['cache_entries']} entries removed from the cache in {value['cache']}\n"
        "copies of this folder, exports, reports, other caches and the Hub still have them:"
        " withdraw there, too, or make them again"
    )


def verify_text(value: dict[str, Any]) -> str:
    """What a verification found."""
    return f"{value['folder']}: every shard and record is whole" if value["ok"] else "\n".join(value["problems"])


def export_text(value: dict[str, Any]) -> str:
    """What an export wrote."""
    fresh = f"{value['written']} written now" if value["written"] else "nothing to do, already complete"
    samples = ", ".join(f"{count} samples of split {split}" for split, count in value["samples"].items())
    return f"{samples} in {value['files']} files, {size_text(value['bytes'])} ({fresh}): {value['folder']}"


def push_text(value: dict[str, Any]) -> str:
    """What a push sent, or would send."""
    count, size = len(value["uploaded"]), size_text(value["uploaded_bytes"])
    if value["dry_run"]:
        lines = [f"would send {path}" for path in value["uploaded"]] + [f"would remove {p}" for p in value["deleted"]]
        return "\n".join([*lines, f"{count} of {value['files']} files, {size}, to {value['url']}; nothing was sent"])
    fresh = f"{count} sent now, {size}" if count or value["deleted"] else "nothing to do, already complete"
    removed = f", {len(value['deleted'])} of an earlier push removed" if value["deleted"] else ""
    access = "private" if value["private"] else "public"
    load = f"datasets.load_dataset({json.dumps(value['repository'])})"
    return (
        f"{value['files']} files ({fresh}{removed}), {access}, compared with what the Hub lists: {value['url']}\n{load}"
    )


def cache_text(value: dict[str, Any]) -> str:
    """How full the cache is."""
    bound = f" of at most {size_text(value['limit'])}" if value["limit"] is not None else ""
    used = f"; last used {value['oldest_use']} to {value['newest_use']}" if value["oldest_use"] else ""
    return f"{value['folder']}: {value['entries']} samples, {size_text(value['bytes'])}{bound}{used}"


def prune_text(value: dict[str, Any]) -> str:
    """What was removed from the cache."""
    return f"removed {value['removed']} entries, {size_text(value['removed_bytes'])}\n{cache_text(value)}"


def audit_text(value: dict[str, Any]) -> str:
    """Which cache entries are whole, damaged, outdated, temporary or foreign."""
    lines = [f"{value['folder']}: {value['entries']} whole entries, {size_text(value['bytes'])}"]
    lines += [f"  {count} samples by {maker}" for maker, count in value["made_by"].items()]
    fate = ", removed" if value["removed"] else ""
    for kind, suffix in (("damaged", fate), ("outdated", fate), ("temporary", fate), ("foreign", "")):
        lines += [f"{kind}{suffix}: {name}" for name in value[kind]]
    if not value["ok"]:
        lines.append("damaged entries are made again when needed; `gif-datasets cache verify --remove` removes them")
    return "\n".join(lines)


def captions_text(value: dict[str, Any]) -> str:
    """What was written, and the most frequent captions."""
    most = "\n".join(f"  {count:5} {caption}" for caption, count in value["most"].items())
    return f"{value['images']} captions, {value['contexts']} of them different, in {value['file']}; most often:\n{most}"


def info_text(value: dict[str, Any]) -> str:
    """What an expanded folder holds, and how it was made."""
    from gif_datasets.shards.card import option_text
    from gif_datasets.shards.image_sizes import sizes_text

    options = "\n".join(f"  {name:<19} {option_text(option)}" for name, option in sorted(value["options"].items()))
    names = ", ".join(value["classes"][:12]) + (", ..." if len(value["classes"]) > 12 else "")
    return (
        _own_class_text(value)
        + f"{value['source']}, split {value['split']}: {value['originals']} originals + {value['synthetic']} synthetic"
        f" = {value['samples']} samples\n"
        + (f"split validation: {value['validation']} originals, held out\n" if value["validation"] else "")
        + f"classes ({len(value['classes'])}): {names}\n"
        + (f"image sizes: {sizes_text(value['image_sizes'])}\n" if value["image_sizes"] else "")
        + (f"fewest copies look like theirs in: {value['own_class_worst']}\n" if value["own_class_worst"] else "")
        + (f"expanded {value['expanded']}: {_classes_text(value['per_class'])}\n" if _is_uneven(value) else "")
        + f"copies per seed: {_counts_text(value['expansion_counts'])}\n"
        + (f"rejected: {value['rejected']}, not counted above\n" if value["rejected"] else "")
        + (f"failed the check: {value['failed_checks']}\n" if value["failed_checks"] else "")
        + f"shards: {value['shards']}, {size_text(value['bytes'])}\n"
        f"prior: {value['prior']['name']} ({value['prior']['digest'][:16]}), made on {value['device']}\n"
        + (f"guide: {value['guide']['name']} ({value['guide']['digest'][:16]})\n" if value["guide"] else "")
        + _generations_text(value["generations"])
        + f"plan: {value['plan_hash']}\n"
        + "".join(f"merged, {part}: {about}\n" for part, about in value["merged"].items())
        + f"options:\n{options}"
    )


def _is_uneven(value: dict[str, Any]) -> bool:
    return type(value["options"]["ratio"]) is not int


def _classes_text(counts: dict[str, list[int]]) -> str:
    """Real and synthetic samples of the first classes."""
    shown = ", ".join(f"{name} {real} + {made}" for name, (real, made) in list(counts.items())[:12])
    return shown + (", ..." if len(counts) > 12 else "")


def _generations_text(generations: list[dict[str, Any]]) -> str:
    """A line for each generation; none where there is one alone."""
    lines = []
    for number, one in enumerate(generations, 1):
        unmixed = f" and {one['unmixed']} copies that showed them" if one["unmixed"] else ""
        kept = f"; kept: {', '.join(one['kept'])}" if one["kept"] else ""
        more = one.get("more", {})
        refined = f" {sum(more.values())} more copies of {len(more)} seeds," if more else ""
        lines.append(
            f"generation {number}: {one['added']} seeds added, {one['withdrawn']} removed{unmixed},{refined}"
            f" {one['shards']} shards written, {one['samples']} samples{kept}\n"
        )
    return "".join(lines)


def _counts_text(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{copies} ({seeds} seeds)" for copies, seeds in list(counts.items())[:12])
    return shown + (", ..." if len(counts) > 12 else "")


WHERE = {
    PERTURBATION: "methods with a prior",
    GUIDANCE: "gif- methods",
    CLASSIFIER: "methods that use a classifier",
    REDRAWS: "if images are checked",
    NOVELTY: "with check=novel",
    SELECTION: "select: methods",
    CONFIRMATION: "with selection=hardest",
    DIFFUSION: "unclip and sd",
    STRENGTH: "unclip and sd",
    INTERPOLATION: "unclip",
    IMG2IMG: "sd",
    "randaugment": "randaugment",
    "mask": "cutout and gridmask",
}
"""Where an option matters, by its part."""


def methods_text(value: dict[str, Any]) -> str:
    """All methods, presets and options."""
    lines = ["methods:"]
    for method in value["methods"]:
        lines += _entry(method["name"], method["summary"], method["defaults"])
    lines += ["", "presets (--set preset=NAME); single options override them:"]
    for preset in value["presets"]:
        lines += _entry(preset["name"], f"{preset['summary']} For {preset['method']}:", preset["options"])
    lines += ["", "options (--set NAME=VALUE, or a line of --config FILE.toml):"]
    for option in value["options"]:
        choices = f" [{'|'.join(option['choices'])}]" if option["choices"] and option["name"] != "method" else ""
        default = "by method" if option["by_method"] else json.dumps(option["default"])
        only = f"; {WHERE[option['of']]}" if option["of"] in WHERE else ""
        lines += [f"  {option['name']}{choices}, default {default}{only}", *_wrapped(option["help"], 6)]
    return "\n".join(lines)


def _entry(name: str, summary: str, settings: dict[str, Any]) -> list[str]:
    """A name, its summary, and the options that it sets, in two columns."""
    first, *rest = _wrapped(summary, 17)
    values = ", ".join(f"{option}={_brief(value)}" for option, value in settings.items())
    return [f"  {name:<14} {first.strip()}", *rest, *(_wrapped(f"sets {values}", 17) if values else [])]


def _brief(value: Any) -> str:
    """A value as JSON; a long list is cut after its first values."""
    if isinstance(value, (list, tuple)) and len(value) > MOST_LISTED:
        return f"{json.dumps(value[:MOST_LISTED])[:-1]}, ... {len(value)} in all]"
    return json.dumps(value)


def _wrapped(text: str, indent: int) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(text, 110, initial_indent=margin, subsequent_indent=margin)


_PUBLISHED = ("name", "families", "latent", "clip", "pixels", "GB", "memory", "here", "repository", "licence")
"""Columns of the table of published priors."""


def _cell(prior: dict[str, Any], column: str) -> str:
    pin = prior["revision"][:8] if prior["pinned"] else f"{prior['revision']}, not pinned"
    cells = {
        "families": ", ".join(prior["families"]),
        "clip": prior["clip"]["open_clip"] if prior["clip"] else "its own tokens",
        "pixels": str(prior["image_size"]),
        "GB": str(prior["download_gb"]),
        "memory": f"{prior['memory_gb']} GB",
        "here": "yes" if prior["here"] else "no",
        "repository": f"{prior['repository']} ({pin})",
        "licence": prior["license"],
    }
    return cells[column] if column in cells else str(prior[column])


def priors_text(value: dict[str, Any]) -> str:
    """Known priors, one under another; published ones as a table."""
    lines = []
    for prior in value["priors"]:
        card = prior["card"]
        lines.append(f"{prior['name']:<10} {', '.join(prior['families'])}; {card.get('license', 'licence unknown')}")
        lines.append(f"{'':<10} {card.get('summary', '')}")
    lines += ["", "published, fetched from the Hub when first used; NAME@REVISION takes another revision:", ""]
    lines += aligned([_PUBLISHED, *([_cell(prior, name) for name in _PUBLISHED] for prior in value["published"])])
    lines += ["", *(f"{prior['name']}: {prior['note']}" for prior in value["published"] if prior["note"])]
    lines += ["", "or the path of a prior's folder, or an entry point of your own (docs/priors.md)"]
    return "\n".join(lines)


def tune_text(value: dict[str, Any]) -> str:
    """What a fine-tuning reached, and where its prior is."""
    trained = f"a LoRA of rank {value['rank']}" if value["rank"] else "all weights"
    loss = f"loss of {value['held_out']} held-out images {value['loss_before']:.4f} -> {value['loss_after']:.4f}"
    kept = f"step {value['best_step']} of {value['steps']}"
    lines = [
        f"{value['base']}/{value['family']}, {trained}, on {value['seeds']} images: {loss} ({kept})",
        f"prior:  {value['folder']} (--prior {value['folder']})",
        f"curve:  {value['folder']}/tuning/loss.svg, sheets beside it",
    ]
    if value["best_step"] == 0:
        lines.append("no step was better than the untuned prior, whose weights were kept; lower --learning-rate")
    return "\n".join(lines)
