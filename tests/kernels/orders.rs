//! On the processor, neither the order in which blocks, warps and lanes run nor the time at which asynchronous copies
//! complete changes a bit.

use std::process::Command;

use crate::bench::Bench;
use crate::common::device::is_card;
use crate::{adapters, attention, embed, gated_act, norm, optimizer, qkv, token_logps};

/// Run separately by the test below, with an order in its environment.
#[test]
fn in_an_order() {
    if std::env::var_os("SHIM_ORDER").is_none() || is_card() {
        return;
    }
    let Some(bench) = Bench::new("orders") else { return };
    for some in [
        attention::some,
        embed::some,
        gated_act::some,
        adapters::some,
        norm::some,
        optimizer::some,
        qkv::some,
        token_logps::some,
    ] {
        some(&bench);
    }
    println!("outputs: {}", bench.seen());
}

#[test]
fn orders_give_the_same_bits() {
    if is_card() || Bench::new("").is_none() {
        return;
    }
    let outputs = |order: &str, copies: &str| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "orders::in_an_order", "--nocapture"])
            .env("SHIM_ORDER", order)
            .env("SHIM_ASYNC", copies);
        let ran = child.output().unwrap();
        let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
        let failed = String::from_utf8_lossy(&ran.stderr).into_owned();
        let line = printed.lines().find_map(|line| line.split("outputs: ").nth(1)).map(String::from);
        line.unwrap_or_else(|| panic!("{order} {copies}: {printed}{failed}"))
    };
    let forward = outputs("forward", "late");
    for (order, copies) in [("backward", "late"), ("shuffled", "late"), ("forward", "early")] {
        assert_eq!(outputs(order, copies), forward, "{order}, copies {copies}");
    }
}
