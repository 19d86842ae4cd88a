//! `cargo bench --bench relay [-- NAME…]`: what carrying notifications costs, against a baseline measured in the same run.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic is how a bench fails, and it prints what it finds"
)]

use std::env;

use tokio::runtime::Runtime;

mod churn;
mod contender;
mod cost;
mod floor;
mod front;
mod idle;
mod instructions;
mod overlap;
mod process;
mod replicas;
mod stage;

fn main() {
    let wanted: Vec<String> = env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    let runtime = Runtime::new().unwrap();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|other| other == name);
    // Entry points of its helper processes.
    stage::allow_connections();
    match wanted.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floor", url, instances] => return floor::runtime().block_on(floor::run(url, instances.parse().unwrap())),
        ["front", port, port_file] => return runtime.block_on(front::serve(port.to_owned(), port_file.to_owned())),
        _ => {}
    }
    if is_wanted("cost") {
        runtime.block_on(cost::run());
    }
    if is_wanted("overlap") {
        runtime.block_on(overlap::run());
    }
    if is_wanted("idle") {
        runtime.block_on(idle::run());
    }
    if is_wanted("churn") {
        runtime.block_on(churn::run());
    }
    if is_wanted("replicas") {
        runtime.block_on(replicas::run());
    }
    if is_wanted("instructions") {
        runtime.block_on(instructions::run());
    }
    runtime.shutdown_background();
}
