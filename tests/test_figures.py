"""A pool's figures: stats, the audit, and all that shows a frame."""

import dataclasses
import json
import pathlib
import re

from helpers import FRAME

import mrm


def test_the_figures_are_the_c_structs_field_by_field(pool):
    header = pathlib.Path(mrm.get_include(), "mrm/mrm.h").read_text()
    struct = re.search(r"typedef struct mrm_stats \{(.*?)\} mrm_stats;", header, re.DOTALL)[1]
    fields = re.findall(r"^\s*(uint32_t|uint64_t) (\w+);", struct, re.MULTILINE)
    assert fields[:2] == [("uint32_t", "size"), ("uint32_t", "version")]
    assert fields[2:] == [("uint64_t", field.name) for field in dataclasses.fields(mrm.PoolStats)]
    stats = pool.stats()
    assert json.loads(stats.to_json()) == stats.as_dict() == dataclasses.asdict(stats)


def test_the_place_is_the_c_structs_field_by_field():
    header = pathlib.Path(mrm.get_include(), "mrm/mrm.h").read_text()
    struct = re.search(r"typedef struct mrm_place \{(.*?)\} mrm_place;", header, re.DOTALL)[1]
    assert re.findall(r"^\s*\w+ (\w+);", struct, re.MULTILINE) == [
        f.name for f in dataclasses.fields(mrm.Place)
    ]


def test_the_figures_follow_what_is_done(pool):
    def differences(before):
        after = pool.stats().as_dict()
        return {name: after[name] - value for name, value in before.as_dict().items() if after[name] != value}

    start = pool.stats()
    assert (start.frames, start.ready, start.free, start.nbytes) == (16, 16, 16, 16 * FRAME)
    frames = pool.take(3)
    assert differences(start) == {"ready": -3, "held": 3}
    with pool.reserve(8) as r, pool.open_view() as view:
        assert differences(start) == {
            "ready": -3,
            "held": 3,
            "reservations": 1,
            "views_open": 1,
            "views_opened": 1,
        }
        opened = pool.stats()
        with r.batch() as b:
            b.map([0, 1, 5], frames)
        assert differences(opened) == {"mapped": 3, "batches": 1, "system_calls": b.report.system_calls}
        with r.batch() as b:
            b.unmap([0, 1], deferred=True)
        pool.give(frames[0])
        mapped = pool.stats()
        assert (mapped.mapped, mapped.pending, mapped.released, mapped.held) == (1, 2, 1, 2)
        pool.give(frames[1], reuse="after_retire")
        assert pool.stats().strict == 1
        r.retire()
        retired = pool.stats()
        assert (retired.pending, retired.strict, retired.released, retired.held) == (0, 0, 0, 1)
        assert retired.epoch > mapped.epoch
        view.retire()
        assert (pool.stats().views_open, pool.stats().views_retired) == (0, 1)
    assert (pool.stats().views_retired, pool.stats().reservations) == (0, 0)


def test_the_audit_counts_what_was_funded(pool):
    pool.take(5)
    stats = pool.audit()
    assert stats.ready + stats.released + stats.strict + stats.held == stats.frames == 16


def test_mappings_names_all_that_shows_a_frame(pool):
    frame = pool.take()
    with pool.open_view() as view, pool.reserve(8) as r:
        with r.batch() as b:
            b.map(2, frame, "r")
        with r.batch() as b:
            b.alias(2, 4)
        with r.batch() as b:
            b.unmap(2, deferred=True)
        view_at, slots_at = view.address(frame), [r.address(2), r.address(4)]
        assert pool.mappings(frame) == [
            mrm.Mapping("window", 0, frame, pool.address(frame), "rw"),
            mrm.Mapping("view", view.number, frame, view_at, "rw"),
            mrm.Mapping("reservation", r.number, 2, slots_at[0], "r", True),
            mrm.Mapping("reservation", r.number, 4, slots_at[1], "r"),
        ]
    assert len(pool.mappings(frame)) == 1
