"""The file that a killed run goes on from: nothing put is lost, nothing else is read, and no one else's is used."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from clocks import Clock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pointsman.executors.errors import PointsmanError
from pointsman.kernels import checkpoint_file
from pointsman.kernels.checkpoint import Checkpoint, CheckpointError, CheckpointWarning
from pointsman.kernels.packing import pack

RUN = {"worker": "study.worker", "seed": 2**127, "spawn_key": [1, 2]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.checkpoint"


def content(path, fingerprint=RUN):
    with Checkpoint.open(path, fingerprint) as checkpoint:
        return checkpoint.results, checkpoint.states


def test_what_was_put_is_found_again(path):
    with Checkpoint.open(path, RUN) as checkpoint:
        checkpoint.put(0, [1.5, {"x": np.arange(3)}])
        checkpoint.put_at(np.array([7, 4]), ["seven", None])
        checkpoint.put_state(3, {"n": 1024, "mean": np.ones(2)}, covers=range(4, 6))
        put = checkpoint.results, checkpoint.states
    found = content(path)
    assert (
        repr(found)
        == repr(put)
        == repr(({0: 1.5, 1: {"x": np.arange(3)}, 7: "seven"}, {3: {"n": 1024, "mean": np.ones(2)}}))
    )
    with Checkpoint.open(path, RUN) as checkpoint:
        checkpoint.put(2, [True])
    assert content(path)[0][2] is True


def test_a_person_can_read_whose_file_it_is_and_no_other_person(path):
    content(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert text.startswith("pointsman checkpoint, format 1")
    assert '"worker": "study.worker"' in text[:500]
    with Checkpoint.open(path, RUN) as checkpoint:
        assert checkpoint.made_with["numpy"] == np.__version__
    assert sorted(os.listdir(path.parent)) == [path.name]


def test_a_file_cut_anywhere_holds_a_prefix_and_can_be_gone_on_with(path, tmp_path):
    sizes = []
    with Checkpoint.open(path, RUN) as checkpoint:
        for index in range(3):
            sizes.append(path.stat().st_size)
            checkpoint.put(index, [index * 1.5])
    whole = path.read_bytes()
    for length in range(sizes[0], sizes[2] + 1):
        path.write_bytes(whole[:length])
        kept = sum(length >= size for size in sizes[1:])
        with Checkpoint.open(path, RUN) as checkpoint:
            assert checkpoint.results == {index: index * 1.5 for index in range(kept)}
            assert checkpoint.cut_bytes == length - sizes[kept]
            checkpoint.put(9, ["more"])
        assert content(path)[0] == {**{index: index * 1.5 for index in range(kept)}, 9: "more"}
    for length in range(1, sizes[0], 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            content(path)
        assert path.read_bytes() == whole[:length]


def test_an_empty_file_is_a_new_one(path):
    path.touch()
    assert content(path) == ({}, {})
    assert path.read_text().startswith("pointsman checkpoint")


def test_a_changed_byte_is_never_believed(path):
    starts = []
    with Checkpoint.open(path, RUN) as checkpoint:
        for index in range(3):
            starts.append(path.stat().st_size)
            checkpoint.put(index, [float(index)])
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        before = path.read_bytes()
        if at >= starts[2]:  # as after a power cut: it runs again
            assert content(path)[0] == {0: 0.0, 1: 1.0}
            continue
        record = max((start for start in starts if start <= at), default=0)
        with pytest.raises(CheckpointError, match=f"damaged at byte {record}," if record else "checkpoint|format"):
            content(path)
        assert path.read_bytes() == before


def test_the_way_out_of_damage_that_the_message_names_works(path):
    with Checkpoint.open(path, RUN) as checkpoint:
        checkpoint.put(0, [0])
        size = path.stat().st_size
        checkpoint.put(1, [1])
        checkpoint.put(2, [2])
    damaged = bytearray(path.read_bytes())
    damaged[size + 30] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=rf"truncate -s {size} PATH"):
        content(path)
    os.truncate(path, size)
    assert content(path)[0] == {0: 0}


def test_another_run_is_told_apart_field_by_field(path):
    content(path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError) as error:
        content(path, {**RUN, "seed": 7, "native_threads": 2})
    assert str(error.value).splitlines() == [
        f"checkpoint {path}: it belongs to another run; give another path, or delete the file to begin anew",
        f"   seed: asked 7, found {2**127}",
        "   native_threads: asked 2, found nothing",
    ]
    assert isinstance(error.value, PointsmanError)
    assert isinstance(error.value, ValueError)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"time,value\n1,2\n", "found another file there"), (b"\x80\x04K\x01.", "found another file there"),
     (b"pointsman checkpoint, format 2; whatever\n", "in format 2; this one reads formats up to 1")],
)  # fmt: skip
def test_files_that_cannot_be_read_are_refused_and_left_alone(path, data, message):
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        content(path)
    assert path.read_bytes() == data


def test_places_where_no_checkpoint_can_be_are_refused(tmp_path):
    for place, message in [
        (tmp_path, "directory"),
        (tmp_path / "no" / "x", "no folder .*make it"),
        ("/dev/null", "device"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            content(place)


def test_a_record_that_is_none_of_ours_is_refused_with_its_place(path):
    content(path)
    at = path.stat().st_size
    for record in (["pickle", 0, []], ["results", "x", [1]], [], ["state", 1, {}, "a", "b"]):
        file = checkpoint_file.RecordFile(path, {})
        file.append(pack(record))
        file.leave()
        with pytest.raises(CheckpointError, match=f"the record at byte {at} cannot be understood"):
            content(path)
        os.truncate(path, at)


def test_what_cannot_be_kept_is_named_and_costs_nothing(path):
    with Checkpoint.open(path, RUN) as checkpoint:
        checkpoint.put(0, [1])
        with pytest.raises(CheckpointError, match=r"result of simulation 12 holds set at \['x'\]\[1\]; what"):
            checkpoint.put(10, [0, 1, {"x": [0, {1}]}])
        with pytest.raises(CheckpointError, match=r"the result of simulation 4 is object; .*without a checkpoint"):
            checkpoint.put_at([3, 4], [0, object()])
        with pytest.raises(CheckpointError, match=r"the state holds object at \['mean'\]"):
            checkpoint.put_state(0, {"mean": object()})
        with pytest.raises(ValueError, match="1 indices and 2 results"):
            checkpoint.put_at([3], [0, 1])
        assert (checkpoint.results, checkpoint.states) == ({0: 1}, {})
    assert content(path) == ({0: 1}, {})
    with pytest.raises(CheckpointError, match="closed"):
        checkpoint.put(1, [1])


def test_one_run_at_a_time(path):
    script = f"""
        from pointsman.kernels.checkpoint import Checkpoint, CheckpointError
        try:
            Checkpoint.open({str(path)!r}, {RUN!r})
        except CheckpointError as error:
            print(error)
    """
    with Checkpoint.open(path, RUN):
        assert "another process, or another run in this one, is running with it" in python(script).stdout
        with pytest.raises(CheckpointError, match="another run in this one"):
            content(path)
    assert python(script).stdout == ""
    content(path)


def test_a_forked_child_neither_writes_nor_keeps_others_out(path):
    said = python(f"""
        import os, signal
        from pointsman.kernels.checkpoint import Checkpoint, CheckpointError
        checkpoint = Checkpoint.open({str(path)!r}, {RUN!r})
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                checkpoint.put(0, ["from the child"])
                os.write(write, b"written")
            except CheckpointError:
                os.write(write, b"refused")
            signal.pause()  # it lives longer than its parent's run
        print(os.read(read, 10).decode())
        checkpoint.close()
        try:
            Checkpoint.open({str(path)!r}, {RUN!r}).close()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    """).stdout
    assert said == "refused\n"
    assert content(path) == ({}, {})


def test_a_file_system_without_locks_is_a_warning(path, monkeypatch):
    def flock(handle, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(checkpoint_file.fcntl, "flock", flock)
    with pytest.warns(CheckpointWarning, match="has no locks") as caught:
        content(path)
    assert caught[0].filename == __file__


def test_a_file_system_without_links_will_do(path, monkeypatch):
    def link(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert content(path) == ({}, {})
    assert sorted(os.listdir(path.parent)) == [path.name]


def test_a_file_deleted_or_replaced_while_it_is_opened_is_not_written_to(path, monkeypatch):
    content(path)
    flock, left = checkpoint_file.fcntl.flock, [path.unlink]

    def interfered(handle, how):
        flock(handle, how)
        if left:
            left.pop()()

    monkeypatch.setattr(checkpoint_file.fcntl, "flock", interfered)
    with Checkpoint.open(path, RUN) as checkpoint:
        checkpoint.put(0, [1])
    assert content(path)[0] == {0: 1}


def test_the_disk_is_asked_to_keep_it_once_a_second_and_at_the_end(path, monkeypatch):
    asked, clock = [], Clock(0.0)
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: asked.append(fsync(handle)))
    with Checkpoint.open(path, RUN, monotonic=clock) as checkpoint:
        asked.clear()
        for expected in (0, 0, 1, 1, 2, 2):
            checkpoint.put(0, [1])
            assert len(asked) == expected
            clock.advance(0.5)
    assert len(asked) == 3
    checkpoint.close()
    assert len(asked) == 3


def test_a_full_disk_ends_the_put_and_leaves_no_half_record(path):
    said = python(f"""
        import os, resource
        from pointsman.kernels.checkpoint import Checkpoint, CheckpointError
        checkpoint = Checkpoint.open({str(path)!r}, {RUN!r})
        checkpoint.put(0, [1.0])
        size = os.path.getsize({str(path)!r})
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, limits[1]))
        try:
            checkpoint.put(1, [bytes(5000)])
        except CheckpointError as error:
            print(error)
        assert os.path.getsize({str(path)!r}) == size
        checkpoint.put(1, [2.0])
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        checkpoint.put(2, [bytes(5000)])
    """).stdout
    assert "there is no room left: File too large. What was put before is in it" in said
    assert content(path)[0] == {0: 1.0, 1: 2.0, 2: bytes(5000)}


def test_an_interrupt_in_the_middle_of_a_record_leaves_none_of_it(path, monkeypatch):
    write, left = os.write, [b"a part"]

    def interrupted(handle, data):
        if left:
            left.pop()
            return write(handle, data[:10])
        raise KeyboardInterrupt

    with Checkpoint.open(path, RUN) as checkpoint:
        checkpoint.put(0, [1])
        monkeypatch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.put(1, [2])
        monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:7]))
        checkpoint.put(2, ["in parts of seven bytes"])
        assert checkpoint.results == {0: 1, 2: "in parts of seven bytes"}
    monkeypatch.undo()
    assert content(path)[0] == {0: 1, 2: "in parts of seven bytes"}


WRITER = """
    import sys
    import numpy as np
    from pointsman.kernels.checkpoint import Checkpoint
    with Checkpoint.open(sys.argv[1], {run!r}) as checkpoint:
        index = 1 + max(checkpoint.results, default=-1)
        print("go", flush=True)
        while True:
            checkpoint.put(index, [(index, np.full(int(sys.argv[2]), index))])
            print(index, flush=True)
            index += 1
"""


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(0.0, 0.05), min_size=2, max_size=2), st.sampled_from([1, 300_000]))
def test_a_killed_writer_loses_nothing_that_was_put(path, waits, size):
    path.unlink(missing_ok=True)
    said = -1
    for wait in waits:
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER.format(run=RUN)), path, str(size)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert writer.stdout is not None
        assert writer.stdout.readline() == "go\n"
        time.sleep(wait)
        writer.kill()
        lines = writer.stdout.read().split("\n")[:-1]  # what is after the last newline was not said
        writer.stdout.close()
        writer.wait()
        said = max([said, *map(int, lines)])
        results, _ = content(path)
        assert list(results) == list(range(len(results)))  # none twice, none missing
        assert len(results) > said
        assert all(index == number and set(array.tolist()) == {index} for index, (number, array) in results.items())


def python(script):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done
