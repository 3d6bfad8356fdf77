# SPDX-License-Identifier: Apache-2.0
"""SECURITY.md names the files of existing tests; the tests themselves stand here, so that none is renamed unnoticed."""

import re
from pathlib import Path
from typing import Final

import pytest

TOP = Path(__file__).parents[3]
PAGE = (TOP / "SECURITY.md").read_text()
PROMISES: Final = [
    tuple(cell.strip() for cell in line.strip("|").rsplit("|", 1))
    for line in PAGE.partition("## Promises")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| promise")
]
# By the beginning of a promise: the tests that hold it, without their prefix. Fuzzers have no names.
HOLD: Final[dict[str, str]] = {
    "A tree is shown to a user only": "a_tree_with_one_task_of_somebody_elses_is_refused_as_a_whole",
    "The kernel says who asks": (
        "another_user_sees_their_own_and_nothing_else members_of_the_group_see_everything "
        "a_tree_with_a_task_of_roots_in_it_is_refused_to_its_user"
    ),
    "A client is told of no task": (
        "a_client_whose_process_has_ended_before_its_first_question_sees_nothing "
        "a_client_that_the_table_does_not_have_sees_nothing "
        "a_namespace_beside_or_above_the_clients_is_shown_to_nobody_in_it "
        "a_child_that_goes_on_with_a_connection_from_a_pid_namespace_sees_nothing"
    ),
    "Calls that change nothing": (
        "calls_that_change_nothing_are_not_announced "
        "a_change_is_announced_or_goes_beyond_its_users_allowance_and_is_counted "
        "the_kernel_allows_a_user_as_much_as_the_daemons_speed_affords "
        "a_record_that_takes_longer_is_allowed_less_often"
    ),
    "During each known attack": "root_is_answered_and_nothing_of_others_is_lost_beside",
    "Root and the group have a socket": (
        "the_private_socket_goes_first_and_a_flood_on_the_public_one_costs_it_nothing "
        "a_flood_on_the_private_socket_takes_nothing_from_the_public_one "
        "root_is_answered_by_the_private_socket_while_others_fill_the_queue_of_the_public_one "
        "members_of_the_group_have_the_private_socket_with_root "
        "the_private_socket_gives_no_right_to_a_user_who_got_to_it"
    ),
    "Records that wait": (
        "no_more_records_wait_for_a_missing_number_than_memory_is_set_aside_for "
        "answers_that_nobody_fetches_are_bounded_by_user subscribers_are_bounded "
        "no_user_has_all_subscriptions_nor_have_all_ordinary_users "
        "who_does_not_fetch_an_answer_expires_and_who_fetches_slowly_does_not"
    ),
    "A user and the user's sub-ids": (
        "an_id_belongs_to_whoever_has_its_range a_tree_that_is_wholly_theirs_is_shown_to_them "
        "the_root_of_a_namespace_is_the_user_it_is_mapped_to a_sub_id_is_shown_what_is_that_ids_alone "
        "the_sub_ids_of_a_user_and_the_user_have_one_budget"
    ),
    "What a process does costs": (
        "ten_times_as_much_around_makes_no_record_dearer a_fork_looks_at_a_few_links_of_a_chain_however_long_it_is"
    ),
    "No request, however mutated": "",
    "No folder of CRIU's images": (
        "no_mutation_of_a_file_does_harm no_mutation_of_a_folder_does_harm "
        "a_descriptor_of_a_process_outside_the_tree_is_refused"
    ),
    "No image, however mutated": "any_bytes_are_errors no_file_takes_longer_than_its_size_deserves",
    "A verb that only reads": "it_reads_and_computes_and_nothing_else its_children_are_confined_as_well",
    "`convert` and `plan -f svg` read a file": (
        "what_reads_the_file_can_write_and_run_nothing what_reads_the_file_of_a_drawn_plan_can_write_and_run_nothing"
    ),
    "A small file cannot fill": "a_small_file_that_would_fill_the_memory_is_refused_by_name",
    "A folder of a recording": (
        "a_verb_that_reads_a_folder_gives_up_its_rights_first a_verb_that_writes_has_a_child_read_the_folder "
        "the_reader_of_a_folder_is_confined_by_the_kernel "
        "a_small_recording_that_would_fill_the_memory_is_refused_by_name what_was_cut_off_is_missing"
    ),
    "A recording is written into no folder": (
        "a_folder_that_others_may_write_to_is_refused a_folder_of_another_user_is_refused "
        "the_removal_of_what_is_written_is_noticed_at_the_next_sync "
        "no_segment_is_begun_in_a_folder_that_is_not_locked"
    ),
    "A plan's work": (
        "twice_as_many_processes_take_about_twice_the_calls "
        "a_search_ends_after_so_many_steps_for_each_process_and_says_so"
    ),
    "The output is a new file": (
        "a_file_is_its_owners_alone_whatever_the_umask no_reader_ever_sees_a_part "
        "what_another_user_has_laid_where_others_may_is_not_followed "
        "a_file_or_empty_folder_of_another_user_is_replaced_and_its_owner_gets_nothing"
    ),
    "A process cannot write over": (
        "every_byte_counts what_meets_under_one_key_does_not_under_another "
        "a_daemon_that_keeps_them_gives_the_arguments_back"
    ),
    "What the daemon keeps of arguments": "strings_are_compared_for_root_alone",
    "A program is not started again": (
        "what_may_be_done_with_a_mount_counts a_namespace_that_has_the_number_of_another_is_another "
        "a_program_that_was_replaced_since_the_capture_is_told "
        "a_program_whose_mounts_differ_in_rights_or_order_is_not_run_outside "
        "a_program_of_a_user_namespace_is_not_run_outside_where_its_ids_are_the_same"
    ),
    "While a tree takes contents": (
        "no_link_leads_a_restart_to_a_file_of_root no_link_has_a_restart_remove_a_socket_of_root "
        "no_process_is_open_to_its_user_while_another_one_has_the_rights_of_the_restart"
    ),
    "A signature is checked": "other_bytes_than_were_signed_are_refused",
    "No text of a file or of another": (
        "a_quoted_word_is_printable_ends_where_it_ends_and_says_all names_that_are_no_text_stay_in_their_line "
        "a_name_cannot_command_the_terminal a_message_has_no_control_character_whatever_is_in_it "
        "a_document_on_a_terminal_is_the_same_in_other_letters every_verb_prints_through_here"
    ),
    "A daemon that gets hardly any CPU": (
        "a_watch_that_gets_no_time_to_catch_up_answers_within_its_patience_and_says_so "
        "to_catch_up_ends_though_records_come_as_fast_as_they_are_taken"
    ),
    "The server of figures": (
        "connections_that_ask_nothing_keep_nobody_out who_does_not_fetch_its_answer_makes_room_too "
        "a_request_that_is_none_is_refused_and_little_of_it_is_read many_who_ask_at_once_cost_the_daemon_one_question"
    ),
    "The installed unit answers": "root_is_answered_by_the_installed_service_beside",
    "Where the kernel has AppArmor": "a_compromised_daemon_cannot",
    "The unit's daemon runs": (
        "three_capabilities_are_given_and_no_other_can_be_had it_runs_as_its_own_user_without_any_capability"
    ),
    "A rebuilt task that holds": (
        "a_task_that_holds_has_no_right_and_can_gain_none a_command_has_no_right_that_the_original_could_not_have_had"
    ),
    "The program that a task starts again": (
        "a_folder_that_others_can_write_to_is_named "
        "a_program_that_another_takes_the_place_of_while_the_tree_is_built_does_not_run "
        "a_program_is_known_by_its_name_whoever_may_write_to_its_folder "
        "the_user_of_a_task_with_more_rights_cannot_lead_it_to_another_program "
        "a_program_does_not_run_in_a_folder_that_took_the_place_of_its_own_while_the_tree_was_built"
    ),
    "A program of `--run` that has fewer rights": (
        "a_program_with_fewer_rights_is_known "
        "a_program_with_fewer_rights_has_no_terminal_of_the_caller_and_its_output_arrives"
    ),
    "The arguments of an exec": (
        "the_arguments_of_execs_are_told_to_root_alone a_subscriber_that_asks_is_told_the_arguments_of_execs "
        "a_daemon_that_keeps_no_strings_has_none_afterwards"
    ),
    "The guard of a rebuilt tree": (
        "every_other_call_is_refused the_guard_and_its_watchers_are_confined_and_no_task_is"
    ),
    "A daemon that is told to end": (
        "a_wait_for_a_job_that_is_held_up_ends_in_time a_daemon_whose_sweep_is_held_up_ends_all_the_same"
    ),
    "A process that has a number": (
        "a_guard_that_takes_its_tree_down_kills_nobody_who_has_a_number_of_it_now "
        "a_coordinator_that_takes_down_what_a_guard_left_kills_nobody_else"
    ),
}


def files(cell: str) -> list[str]:
    """Return the test files that a promise names."""
    return re.findall(r"`(tests/[\w/.]+)`", cell)


def test_every_promise_names_tests_that_there_are() -> None:
    """A promise without its test could break unnoticed."""
    makefile = (TOP / "Makefile").read_text()
    for promise, cell in PROMISES:
        targets = re.findall(r"`make ([\w-]+)`", cell)
        assert targets or files(cell), promise
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), promise
        assert all((TOP / name).is_file() for name in files(cell)), promise


def test_every_promise_is_held_by_tests_named_here() -> None:
    """A new one comes with its own."""
    held = [[start for start in HOLD if promise.startswith(start)] for promise, _ in PROMISES]

    assert [len(each) for each in held] == [1] * len(PROMISES)
    assert len(HOLD) == len(PROMISES) > 25


@pytest.mark.parametrize("start", HOLD)
def test_the_tests_that_hold_a_promise_are_in_the_files_that_it_names(start: str) -> None:
    """And each of those files has one of them."""
    named = next(files(cell) for promise, cell in PROMISES if promise.startswith(start))
    defined = {
        name: set(re.findall(r"^def test_(\w+)", (TOP / name).read_text(), re.MULTILINE))
        for name in named
        if "/fuzz/" not in name
    }
    tests = set(HOLD[start].split())

    assert tests <= set().union(*defined.values())
    assert [name for name, functions in defined.items() if not functions & tests] == []
