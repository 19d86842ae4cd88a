#![doc = include_str!("ARCHITECTURE.md")]

mod account;
mod address;
pub mod admin;
mod asyncapi;
mod backoff;
pub mod bridge;
pub mod cli;
pub mod condition;
pub mod config;
pub mod doctor;
pub mod doubt;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod error;
mod exposure;
mod fault;
pub mod fleet;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod green_api;
mod input_file;
mod kinds;
pub mod metrics;
pub mod mistake;
mod monitor;
pub mod notification;
mod overlap;
mod rate_limit;
mod repeats;
pub mod sink;
mod systemd;
pub mod telemetry;
pub mod token;
mod unreadable;
pub mod verify;
pub mod watch;
