//! The numbers of [`crate::metrics`] in the format of Prometheus. No histogram has a label for the instance.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use crate::metrics::{ByKind, Histogram, InstanceMetrics, Metrics, Number, Outcome, ShardStatus, SinkMetrics};
use crate::sink::kafka;

/// All metrics in the text format of `OpenMetrics`.
pub(super) fn encode(metrics: &Metrics) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.sub_registry_with_prefix("green_api_bridge").register_collector(Box::new(Bridge(metrics.clone())));
    registry.register_collector(Box::new(Process));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

type Instances = Vec<(String, Arc<InstanceMetrics>)>;
type Read = fn(&InstanceMetrics) -> &Number;

/// Counters of an instance with a further label.
struct Counters {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: &'static [(&'static str, Read)],
}

const COUNTERS: [Counters; 4] = [
    Counters {
        name: "polls",
        help: "Answers to receiveNotification",
        label: "outcome",
        values: &[
            (Outcome::Notification.name(), |status| status.polls(Outcome::Notification)),
            (Outcome::Empty.name(), |status| status.polls(Outcome::Empty)),
            (Outcome::Error.name(), |status| status.polls(Outcome::Error)),
        ],
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
        help: "Notifications received again after they were stored",
        label: "",
        values: &[("", |status| &status.redelivered)],
    },
    Counters {
        name: "dead_lettered",
        help: "Notifications stored as dead letters",
        label: "reason",
        values: &[
            ("too_large", |status| &status.dead_too_large),
            ("refused", |status| &status.dead_refused),
            ("unroutable", |status| &status.dead_unroutable),
            ("malformed", |status| &status.dead_malformed),
        ],
    },
];

const GAUGES: [(&str, &str, Read); 3] = [
    ("in_flight_notifications", "Notifications received, and neither deleted nor discarded yet", |status| {
        &status.in_flight
    }),
    ("last_success_timestamp_seconds", "When a notification was last stored and deleted", |status| {
        &status.last_success
    }),
    ("last_notification_timestamp_seconds", "When a notification was last received", |status| {
        &status.last_notification
    }),
];

#[derive(Debug)]
struct Bridge(Metrics);

impl Collector for Bridge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (encoder, metrics) = (&mut encoder, &self.0);
        let instances: Instances =
            metrics.instances().into_iter().map(|(instance, status)| (instance.to_string(), status)).collect();
        for Counters { name, help, label, values } in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (instance, status) in &instances {
                for (value, read) in values {
                    let labels = [("id_instance", instance.as_str()), (label, value)];
                    let labels = if label.is_empty() { &labels[..1] } else { &labels[..] };
                    family.encode_family(&labels)?.encode_counter(&read(status).get(), NO_EXEMPLAR)?;
                }
            }
        }
        for (name, help, read) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (instance, status) in &instances {
                family
                    .encode_family(&[("id_instance", instance.as_str())])?
                    .encode_gauge(&signed(read(status).get()))?;
            }
        }
        let bytes = instances.iter().map(|(_, status)| status.in_flight_bytes.get()).sum();
        let help = "Size of the bodies received, and neither stored nor discarded yet";
        gauge(encoder, "in_flight_bytes", help, &[], signed(bytes))?;
        let help = "Notifications received, redeliveries included";
        by_kind(encoder, "notifications_received", help, &instances, None, |status| &status.received)?;
        let help = "Notifications durably stored by the sink";
        let sink = Some(("sink", metrics.sink().name));
        by_kind(encoder, "notifications_published", help, &instances, sink, |status| &status.published)?;
        states(encoder, &instances)?;
        conditions(encoder, metrics)?;
        let polls = Outcome::ALL.map(|outcome| (("outcome", outcome.name()), metrics.poll_seconds(outcome)));
        histograms(encoder, "poll_duration_seconds", "From asking to the answer of receiveNotification", polls)?;
        of_sink(encoder, metrics.sink(), &instances)?;
        let revision = option_env!("BRIDGE_REVISION").unwrap_or("unknown");
        let build =
            [("version", env!("CARGO_PKG_VERSION")), ("revision", revision), ("librdkafka", &*kafka::client_version())];
        gauge(encoder, "build_info", "What is running", &build, 1)
    }
}

const NO_EXEMPLAR: Option<&Exemplar<[(&str, &str); 0], f64>> = None;

/// Only the kinds that occurred, because there may be thousands of instances.
fn by_kind(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    instances: &Instances,
    more: Option<(&str, &str)>,
    read: fn(&InstanceMetrics) -> &ByKind,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (instance, status) in instances {
        for (kind, count) in read(status).each() {
            let labels: Vec<_> =
                [("id_instance", instance.as_str())].into_iter().chain(more).chain([("type", kind)]).collect();
            family.encode_family(&labels.as_slice())?.encode_counter(&count, NO_EXEMPLAR)?;
        }
    }
    Ok(())
}

fn states(encoder: &mut DescriptorEncoder<'_>, instances: &Instances) -> fmt::Result {
    let help = "1 for the state of the account, as last reported by stateInstanceChanged or getStateInstance";
    let mut family = encoder.encode_descriptor("instance_state", help, None, MetricType::Gauge)?;
    for (instance, status) in instances {
        if let Some(state) = status.state() {
            family
                .encode_family(&[("id_instance", instance.as_str()), ("state", state.name())])?
                .encode_gauge(&1_i64)?;
        }
    }
    Ok(())
}

/// Only conditions that are entered, because there may be thousands of instances. Those of the sink have an empty `id_instance`.
fn conditions(encoder: &mut DescriptorEncoder<'_>, metrics: &Metrics) -> fmt::Result {
    let help = "1 while an instance, or with no instance the sink, is in a condition";
    let mut family = encoder.encode_descriptor("condition", help, None, MetricType::Gauge)?;
    for (instance, present) in metrics.conditions() {
        let instance = instance.map(|instance| instance.to_string()).unwrap_or_default();
        for condition in present {
            let condition = condition.to_string();
            let labels = [("id_instance", instance.as_str()), ("condition", condition.as_str())];
            family.encode_family(&labels)?.encode_gauge(&1_i64)?;
        }
    }
    Ok(())
}

fn of_sink(encoder: &mut DescriptorEncoder<'_>, sink: &SinkMetrics, instances: &Instances) -> fmt::Result {
    let label = ("sink", sink.name);
    gauge(
        encoder,
        "sink_up",
        "1 while the sink is connected, and owned or another replica's",
        &[label],
        i64::from(sink.works()),
    )?;
    of_shards(encoder, sink)?;
    let help = "Heads of queues that were discarded unpublished because the ownership had ended";
    let mut family = encoder.encode_descriptor("heads_discarded", help, None, MetricType::Counter)?;
    family.encode_family(&[label])?.encode_counter(&sink.heads_discarded.get(), NO_EXEMPLAR)?;
    let help = "Size of the dead letters in dead_letter_dir, counted every 30 s";
    gauge(encoder, "dead_letter_dir_bytes", help, &[], signed(sink.dead_letter_dir_bytes.get()))?;
    let help = "Messages in the queue of rejected messages, counted once a minute";
    let mut family = encoder.encode_descriptor("rejected_messages", help, None, MetricType::Gauge)?;
    if let Some(depth) = sink.rejected() {
        family.encode_family(&[label])?.encode_gauge(&i64::from(depth))?;
    }
    let help = "Failed publishes, which are retried";
    let mut family = encoder.encode_descriptor("publish_errors", help, None, MetricType::Counter)?;
    let errors: [(&str, Read); 2] =
        [("refused", |status| &status.publish_refused), ("unknown", |status| &status.publish_unknown)];
    for (kind, read) in errors {
        let count: u64 = instances.iter().map(|(_, status)| read(status).get()).sum();
        family.encode_family(&[label, ("error_type", kind)])?.encode_counter(&count, NO_EXEMPLAR)?;
    }
    let help = "From submitting a notification until it is durably stored";
    histograms(encoder, "publish_duration_seconds", help, [(label, &sink.publish_seconds)])?;
    let help = "From the timestamp of a notification, in whole seconds, until it is durably stored";
    histograms(encoder, "end_to_end_latency_seconds", help, [(label, &sink.end_to_end_seconds)])
}

/// Metrics of a sink that replicas share; for others only their descriptions.
fn of_shards(encoder: &mut DescriptorEncoder<'_>, sink: &SinkMetrics) -> fmt::Result {
    let mut shards = sink.shards();
    if shards.len() < 2 {
        shards.clear();
    }
    let help = "1 while this replica holds the shard";
    let mut family = encoder.encode_descriptor("shard_held", help, None, MetricType::Gauge)?;
    for (number, shard) in shards.iter().enumerate() {
        family.encode_family(&[("shard", number.to_string())])?.encode_gauge(&i64::from(shard.is_held()))?;
    }
    let help = "How often this replica took a shard, or left it to another";
    let mut family = encoder.encode_descriptor("shard_moves", help, None, MetricType::Counter)?;
    for (reason, read) in
        [("taken", (|shard| &shard.taken) as fn(&ShardStatus) -> &Number), ("left", |shard| &shard.left)]
    {
        let count: u64 = shards.iter().map(|shard| read(shard).get()).sum();
        if !shards.is_empty() {
            family.encode_family(&[("reason", reason)])?.encode_counter(&count, NO_EXEMPLAR)?;
        }
    }
    let help = "From the assignment of a shard until it is open";
    let opening = (!shards.is_empty()).then_some((("sink", sink.name), &sink.opening_seconds));
    histograms(encoder, "shard_opening_seconds", help, opening)?;
    let help = "How many replicas share the instances, where the broker reports it";
    let mut family = encoder.encode_descriptor("replicas", help, None, MetricType::Gauge)?;
    match sink.replicas.get() {
        0 => Ok(()),
        replicas => {
            let replicas = i64::try_from(replicas).unwrap_or(i64::MAX);
            family.encode_family(&[("sink", sink.name)])?.encode_gauge(&replicas)
        }
    }
}

fn histograms<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    each: impl IntoIterator<Item = ((&'static str, &'static str), &'a Histogram)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (label, histogram) in each {
        let (sum, buckets) = histogram.read();
        let count = buckets.iter().map(|(_, count)| count).sum();
        family.encode_family(&[label])?.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)?;
    }
    Ok(())
}

#[derive(Debug)]
struct Process;

impl Collector for Process {
    #[cfg_attr(not(target_os = "linux"), expect(unused, reason = "only Linux has these"))]
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        #[cfg(target_os = "linux")]
        if let Ok(process) = procfs::process::Process::myself()
            && let Ok(stat) = process.stat()
        {
            let memory = stat.rss.saturating_mul(procfs::page_size());
            let threads = u64::try_from(stat.num_threads).unwrap_or(0);
            let files = process.fd_count().unwrap_or(0) as u64;
            gauge(&mut encoder, "process_resident_memory_bytes", "Memory in use", &[], signed(memory))?;
            gauge(&mut encoder, "process_open_fds", "Open files and connections", &[], signed(files))?;
            gauge(&mut encoder, "process_threads", "Threads", &[], signed(threads))?;
            let ticks = stat.utime + stat.stime;
            let used = std::time::Duration::from_millis(1000 * ticks / procfs::ticks_per_second());
            encoder
                .encode_descriptor("process_cpu_seconds", "Processor time used", None, MetricType::Counter)?
                .encode_counter(&used.as_secs_f64(), NO_EXEMPLAR)?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    labels: &[(&str, &str)],
    value: i64,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    if labels.is_empty() { family.encode_gauge(&value) } else { family.encode_family(&labels)?.encode_gauge(&value) }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
