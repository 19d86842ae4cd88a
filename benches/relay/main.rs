//! `cargo bench --bench relay [-- NAME…]`: what carrying notifications costs, against a floor measured in the same run.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic is how a bench fails, and it prints what it finds"
)]

use std::env;

mod fleet;
mod overlap;
mod stage;

fn main() {
    let wanted: Vec<String> = env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|other| other == name);
    if is_wanted("overlap") {
        runtime.block_on(overlap::run());
    }
    if is_wanted("idle") {
        stage::allow_connections();
        runtime.block_on(fleet::idle());
    }
    if is_wanted("churn") {
        runtime.block_on(fleet::churn());
    }
    runtime.shutdown_background();
}
