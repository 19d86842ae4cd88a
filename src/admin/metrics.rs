//! The numbers of [`crate::status`] as Prometheus reads them. No histogram has an `instance`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use crate::condition::{self, Condition};
use crate::status::{self, InstanceStatus, Number};

const PREFIX: &str = "green_api_bridge";

/// Everything, in the text form of `OpenMetrics`.
pub(super) fn encode() -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Everything));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Everything;

type Read = fn(&InstanceStatus) -> &Number;

/// Counters of an instance, told apart by a further label.
struct Counters {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: &'static [(&'static str, Read)],
}

const COUNTERS: [Counters; 6] = [
    Counters {
        name: "polls",
        help: "Answers to receiveNotification",
        label: "outcome",
        values: &[
            ("notification", |status| &status.polls_notification),
            ("empty", |status| &status.polls_empty),
            ("error", |status| &status.polls_error),
        ],
    },
    Counters {
        name: "notifications_received",
        help: "Notifications received, redeliveries included",
        label: "",
        values: &[("", |status| &status.received)],
    },
    Counters {
        name: "notifications_published",
        help: "Notifications stored by the sink for good",
        label: "",
        values: &[("", |status| &status.published)],
    },
    Counters {
        name: "deletes",
        help: "Answers to deleteNotification",
        label: "outcome",
        values: &[
            ("confirmed", |status| &status.deletes_confirmed),
            ("unconfirmed", |status| &status.deletes_unconfirmed),
        ],
    },
    Counters {
        name: "redeliveries",
        help: "Notifications that came again after they were stored",
        label: "",
        values: &[("", |status| &status.redelivered)],
    },
    Counters {
        name: "dead_lettered",
        help: "Notifications kept at a dead-letter place",
        label: "reason",
        values: &[
            ("too_large", |status| &status.dead_too_large),
            ("refused", |status| &status.dead_refused),
            ("unroutable", |status| &status.dead_unroutable),
        ],
    },
];

impl Collector for Everything {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let instances: Vec<(String, _)> =
            status::instances().into_iter().map(|(instance, status)| (instance.to_string(), status)).collect();
        for Counters { name, help, label, values } in COUNTERS {
            let name = format!("{PREFIX}_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (instance, status) in &instances {
                for (value, read) in values {
                    let labels = [("instance", instance.as_str()), (label, value)];
                    let labels = if label.is_empty() { &labels[..1] } else { &labels[..] };
                    family.encode_family(&labels)?.encode_counter(&read(status).get(), NO_EXEMPLAR)?;
                }
            }
        }
        let gauges: [(&str, &str, Read); 2] = [
            ("last_success_timestamp_seconds", "When a notification was last stored and deleted", |status| {
                &status.last_success
            }),
            ("last_notification_timestamp_seconds", "When a notification was last received", |status| {
                &status.last_notification
            }),
        ];
        for (name, help, read) in gauges {
            let name = format!("{PREFIX}_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            for (instance, status) in &instances {
                let value = i64::try_from(read(status).get()).unwrap_or(i64::MAX);
                family.encode_family(&[("instance", instance.as_str())])?.encode_gauge(&value)?;
            }
        }
        conditions(&mut encoder)?;
        sink(&mut encoder, &instances)?;
        process(&mut encoder)
    }
}

const NO_EXEMPLAR: Option<&Exemplar<[(&str, &str); 0], f64>> = None;

/// Of the sink with an empty `instance`. Only what is entered: 13 lines for each of thousands would
/// say nothing.
fn conditions(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let name = format!("{PREFIX}_condition");
    let help = "1 while an instance, or with no instance the sink, is in a condition";
    let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
    for (instance, present) in condition::present() {
        let instance = instance.map(|instance| instance.to_string()).unwrap_or_default();
        for condition in present.into_iter().map(|condition: Condition| condition.to_string()) {
            let labels = [("instance", instance.as_str()), ("condition", condition.as_str())];
            family.encode_family(&labels)?.encode_gauge(&1_i64)?;
        }
    }
    Ok(())
}

fn sink(encoder: &mut DescriptorEncoder<'_>, instances: &[(String, std::sync::Arc<InstanceStatus>)]) -> fmt::Result {
    let Some(sink) = status::the_sink() else { return Ok(()) };
    let labels = [("sink", sink.kind)];
    gauge(encoder, "sink_up", "1 while the sink is connected and owned", &labels, i64::from(sink.works()))?;
    let name = format!("{PREFIX}_publish_errors");
    let errors: u64 = instances.iter().map(|(_, status)| status.publish_errors.get()).sum();
    encoder
        .encode_descriptor(&name, "Notifications that were not stored at once", None, MetricType::Counter)?
        .encode_family(&labels)?
        .encode_counter(&errors, NO_EXEMPLAR)?;
    let name = format!("{PREFIX}_publish_duration_seconds");
    let (sum, buckets) = sink.publish_seconds.read();
    let count = buckets.iter().map(|(_, count)| count).sum();
    encoder
        .encode_descriptor(&name, "From handing a notification over to stored for good", None, MetricType::Histogram)?
        .encode_family(&labels)?
        .encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)
}

fn process(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let version = [("version", env!("CARGO_PKG_VERSION")), ("librdkafka", librdkafka())];
    gauge(encoder, "build_info", "What is running", &version, 1)?;
    #[cfg(target_os = "linux")]
    if let Ok(process) = procfs::process::Process::myself()
        && let Ok(stat) = process.stat()
    {
        let numbers = [
            ("process_resident_memory_bytes", "Memory in use", stat.rss.saturating_mul(procfs::page_size())),
            ("process_open_fds", "Open files and connections", process.fd_count().unwrap_or(0) as u64),
            ("process_threads", "Threads", u64::try_from(stat.num_threads).unwrap_or(0)),
        ];
        for (name, help, value) in numbers {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        let seconds = std::time::Duration::from_millis(1000 * (stat.utime + stat.stime) / procfs::ticks_per_second());
        encoder
            .encode_descriptor("process_cpu_seconds", "Processor time used", None, MetricType::Counter)?
            .encode_counter(&seconds.as_secs_f64(), NO_EXEMPLAR)?;
    }
    Ok(())
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    labels: &impl EncodeLabelSet,
    value: i64,
) -> fmt::Result {
    let name = format!("{PREFIX}_{name}");
    encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?.encode_family(labels)?.encode_gauge(&value)
}

#[cfg(feature = "kafka")]
fn librdkafka() -> &'static str {
    static VERSION: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| rdkafka::util::get_rdkafka_version().1);
    &VERSION
}

#[cfg(not(feature = "kafka"))]
fn librdkafka() -> &'static str {
    ""
}
