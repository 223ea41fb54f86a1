"""Tests that run elsewhere are lists with names, so that none can be forgotten or hidden."""

from __future__ import annotations

import ast
from pathlib import Path

GPU = {
    "test_a_variant_agrees_with_its_reference",
    "test_any_layout_gives_the_same_value_on_the_device",
    "test_a_nan_reaches_what_depends_on_it_on_the_device",
    "test_a_resident_call_leaves_its_result_on_the_device",
    "test_torch_gradients_on_the_device_are_right",
    "test_numbas_sums_give_the_same_bits_again",
    "test_a_tensor_on_the_device_stays_there",
    "test_a_round_trip_changes_nothing",
    "test_a_large_array_arrives_whole_and_may_be_overwritten_at_once",
    "test_libraries_hand_over_on_the_device_by_copy",
    "test_numba_takes_what_lies_on_the_device_without_the_host",
    "test_the_budget_is_what_nvml_says_less_the_reserve",
    "test_what_a_pool_holds_counts_as_free_and_can_be_given_back",
    "test_what_does_not_fit_is_no_candidate",
    "test_the_threshold_is_the_budget",
    "test_running_out_of_memory_is_classified_and_survived",
    "test_running_out_of_memory_falls_back",
    "test_the_clock_waits_for_the_device",
    "test_a_failure_that_shows_late_is_the_devices",
    "test_large_work_goes_to_the_device_and_small_work_does_not",
    "test_every_gpu_library_that_is_installed_is_usable",
    "test_batches_on_the_device_are_those_of_the_host",
    "test_a_full_device_halves_the_batch",
}


def names_in(folder: Path) -> set[str]:
    return {
        node.name
        for path in folder.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_what_needs_a_gpu_is_this_list(project):
    assert names_in(project / "tests" / "gpu") == GPU


def test_nothing_else_is_skipped(project):
    """A missing CPU library is a failure of the set-up, not a reason to look away."""
    marks = [
        f"{path.relative_to(project)}:{number}"
        for path in (project / "tests").rglob("test_*.py")
        if "gpu" not in path.parts and path.name != "test_lists.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if any(word in line for word in ("mark.skip", "mark.xfail", "importorskip", "pytest.skip("))
    ]
    assert marks == []
