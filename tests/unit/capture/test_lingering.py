# SPDX-License-Identifier: Apache-2.0
"""The note of inits that wait within their exit, in the memory of a daemon."""

from agent.capture import memorywriter
from agent.table.objects import CLONE_NEWPID
from tests.support.memories import body_of, framed, memory_of, read
from tests.support.watched import watched


def test_the_note_of_a_lingering_init_is_kept_as_it_is() -> None:
    """It does not follow from the state: an init whose exit began beside other threads of it is not noted."""
    pair = watched(lingers=True)
    kernel = pair.kernel
    noted, unnoted = (kernel.fork(kernel.init, CLONE_NEWPID) for _ in range(2))
    for init in (noted, unnoted):
        kernel.fork(init)
        kernel.begin_exit(init)
    pair.ask()
    table = pair.table
    assert {task.pid.numbers[0] for tasks in table.lingering.values() for task in tasks} == {noted.tid, unnoted.tid}
    table.lingering.pop(pair.task(unnoted).pid.namespace)

    data = memorywriter.dump(memory_of(pair))
    again = read(data)
    (tasks,) = again.table.lingering.values()
    assert [task.pid.numbers[0] for task in tasks] == [noted.tid]
    assert memorywriter.dump(again) == data


def test_a_memory_of_before_that_note_is_read() -> None:
    """Recordings have keyframes of that version; the note is made from the tasks then."""
    pair = watched(lingers=True)
    kernel = pair.kernel
    init = kernel.fork(kernel.init, CLONE_NEWPID)
    kernel.fork(init)
    kernel.begin_exit(init)
    pair.ask()
    body = body_of(memorywriter.dump(memory_of(pair)))
    assert body[-3].pop() != []
    again = read(framed(body, version=5))
    (tasks,) = again.table.lingering.values()
    assert [task.pid.numbers[0] for task in tasks] == [init.tid]
