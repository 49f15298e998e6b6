"""Counts the instructions of the inner loops of the Arm kernels in a disassembly (`objdump -d -C` on standard input).

For each kernel function of `ops::gemm::neon*` it takes the loop (a backward branch and its target) with the most
multiplications, and prints the instructions by kind and the floating-point operations per instruction. A multiply-add of
a number counts as two operations: FMLA on four lanes does 8, BFMMLA 32, SMMLA 64 of 8-bit integers, four of which multiply
the digits of 32 pairs (16 operations each)."""

import re
import sys
from collections import Counter

FLOP = {"fmla": 8, "bfmmla": 32, "smmla": 16}


def functions(lines):
    name, body = None, []
    for line in lines:
        if found := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            if name:
                yield name, body
            name, body = found[1], []
        elif found := re.match(r"\s+([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            body.append((int(found[1], 16), found[2], found[3]))
    if name:
        yield name, body


def loops(body):
    """Yields the instructions from the target of each backward branch to the branch."""
    for at, operation, operands in body:
        if operation.startswith(("b.", "cbnz", "cbz", "tbnz", "tbz")) or operation == "b":
            for target in re.findall(r"\b([0-9a-f]+) <", operands):
                target = int(target, 16)
                if body[0][0] <= target < at:
                    yield [found for found in body if target <= found[0] <= at]


def main():
    for name, body in functions(sys.stdin):
        if not re.search(r"ops::gemm::neon", name):
            continue
        found = [loop for loop in loops(body) if any(operation in FLOP for _, operation, _ in loop)]
        if not found:
            continue
        # The innermost: no other loop with multiplications inside.
        inner = min(found, key=len)
        kinds = Counter(operation for _, operation, _ in inner)
        flop = sum(FLOP.get(operation, 0) * count for operation, count in kinds.items())
        print(f"{name}: {len(inner)} instructions, {flop} operations, {flop / len(inner):.1f} per instruction")
        print("   ", ", ".join(f"{count} {operation}" for operation, count in kinds.most_common()))


main()
