//! How an instance behaves where the real service is unknown, changing, or known to fail.

use serde::{Deserialize, Serialize};

/// The knobs of one instance. Over HTTP what is not named stays as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a knob of its own")]
pub struct Knobs {
    /// Added to every answer, half before and half after the server acts.
    pub delay_ms: u64,
    /// What `getStateInstance` answers.
    pub state: String,
    /// The answer to a receive when nothing came.
    pub empty_answer: EmptyAnswer,
    /// The default of `receiveTimeout`, in seconds.
    pub receive_timeout_default_secs: f64,
    /// The shortest wait, in seconds.
    pub receive_timeout_min_secs: f64,
    /// The longest wait, in seconds.
    pub receive_timeout_max_secs: f64,
    /// What happens to a `receiveTimeout` outside of that range.
    pub receive_timeout_out_of_range: OutOfRange,
    /// What a receive gets while the head is handed out and not deleted.
    pub redelivery: Redelivery,
    /// With `redelivery: hidden`: for how long.
    pub hidden_ms: u64,
    /// The receipt of a head that is handed out again. A new one makes the old one worthless.
    pub receipt_on_redelivery: ReceiptOnRedelivery,
    /// How receipts are numbered.
    pub receipt_ids: ReceiptIds,
    /// The answer to a delete of what is not there.
    pub delete_unknown: DeleteUnknown,
    /// Whether only what was received can be deleted. Otherwise the head's receipt is the next number.
    pub delete_requires_receive: bool,
    /// Who gets the head when several receives wait.
    pub concurrent_receivers: ConcurrentReceivers,
    /// Whether a receive answers with the head of the moment it arrived at, deleted since or not.
    pub stale_heads: bool,
    /// For how long after a delete receives still return what it deleted.
    pub receive_lag_ms: u64,
    /// Whether deletes of the head are answered `true` and delete nothing.
    pub head_stays: bool,
    /// Every N-th receive of a queue that is not empty is answered as if it were; 0 for none.
    pub false_empty_every: u32,
    /// Every N-th notification is queued twice; 0 for none.
    pub duplicate_every: u32,
    /// The form of a 400.
    pub error_body_format: ErrorBodyFormat,
    /// How long a notification is kept.
    pub retention_ms: u64,
    /// How long after `setSettings` they apply; the state is `starting` meanwhile.
    pub settings_apply_delay_ms: u64,
    /// Whether a receive is served in any other state than `authorized`.
    pub receive_when_not_authorized: WhenNotAuthorized,
    /// Whether the queue survives `reboot`.
    pub reboot_keeps_queue: bool,
    /// What `getWebhooksCount` answers instead of the truth.
    pub webhooks_count: Option<u64>,
    /// Whether requests are limited as in the vendor's table.
    pub rate_limit: bool,
    /// How many requests may come at once; by default as many as a second allows.
    pub rate_burst: Option<u32>,
    /// The `Retry-After` of a 429; none by default.
    pub retry_after_secs: Option<u64>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            delay_ms: 0,
            state: "authorized".to_owned(),
            empty_answer: EmptyAnswer::Null,
            receive_timeout_default_secs: 5.0,
            receive_timeout_min_secs: 5.0,
            receive_timeout_max_secs: 60.0,
            receive_timeout_out_of_range: OutOfRange::Clamp,
            redelivery: Redelivery::Immediate,
            hidden_ms: 30_000,
            receipt_on_redelivery: ReceiptOnRedelivery::Same,
            receipt_ids: ReceiptIds::Counter,
            delete_unknown: DeleteUnknown::ResultFalse,
            delete_requires_receive: true,
            concurrent_receivers: ConcurrentReceivers::AllGetHead,
            stale_heads: false,
            receive_lag_ms: 0,
            head_stays: false,
            false_empty_every: 0,
            duplicate_every: 0,
            error_body_format: ErrorBodyFormat::Path,
            retention_ms: 24 * 60 * 60 * 1000,
            settings_apply_delay_ms: 0,
            receive_when_not_authorized: WhenNotAuthorized::Serve,
            reboot_keeps_queue: true,
            webhooks_count: None,
            rate_limit: false,
            rate_burst: None,
            retry_after_secs: None,
        }
    }
}

/// Declares an enum of values as JSON writes them.
macro_rules! values {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$value_doc])* #[serde(rename = $text)] $value),+
        }
    };
}

values! {
    /// The answer to a receive when nothing came.
    EmptyAnswer {
        /// 200 `null`.
        Null = "null",
        /// 200 without a body.
        Empty = "empty",
        /// 200 `{}`.
        Object = "{}",
        /// 408, as a gateway answers.
        Timeout = "408",
        /// 504, as a gateway answers.
        GatewayTimeout = "504",
    }
}

values! {
    /// What becomes of a wait that is out of range.
    OutOfRange {
        /// The nearest that is allowed.
        Clamp = "clamp",
        /// 400.
        Reject = "reject400",
        /// It is accepted.
        Accept = "accept",
    }
}

values! {
    /// What a receive gets while the head is handed out and not deleted.
    Redelivery {
        /// The head, at once.
        Immediate = "immediate",
        /// Nothing for a time, then the head.
        Hidden = "hidden",
        /// The next one: what was not deleted in between is lost.
        Never = "never",
    }
}

values! {
    /// The receipt of a head that is handed out again.
    ReceiptOnRedelivery {
        /// The same.
        Same = "same",
        /// Another each time; the earlier ones delete nothing.
        New = "new",
    }
}

values! {
    /// How receipts are numbered.
    ReceiptIds {
        /// 1, 2, 3.
        Counter = "counter",
        /// The same, and from 1 again after each reboot.
        RestartOnReboot = "restart_on_reboot",
        /// With gaps.
        Sparse = "sparse",
        /// In no order.
        Random = "random",
        /// From 2^31 on.
        Above31Bits = "above_2_31",
        /// From 2^53 on.
        Above53Bits = "above_2_53",
    }
}

values! {
    /// The answer to a delete of what is not there.
    DeleteUnknown {
        /// 200 `{"result":false}`.
        ResultFalse = "result_false",
        /// 500 `findUnAckedMessage`.
        FindUnAcked = "500_findUnAcked",
    }
}

values! {
    /// Who gets the head when several receives wait.
    ConcurrentReceivers {
        /// All of them.
        AllGetHead = "all_get_head",
        /// The first; the others get an empty answer.
        OneGetsHead = "one_gets_head_others_null",
    }
}

values! {
    /// The form of a 400.
    ErrorBodyFormat {
        /// `{"statusCode":400,"timestamp":…,"path":…,"message":…}`, the token in `path`.
        Path = "path",
        /// `{"code":"INVALID_PARAM","message":…,"status":"error"}`.
        Code = "code",
        /// The message alone.
        Text = "text",
        /// Nothing.
        Empty = "empty",
    }
}

values! {
    /// Whether a receive is served in any other state than `authorized`.
    WhenNotAuthorized {
        /// As usual.
        Serve = "serve",
        /// 400.
        Reject = "400",
    }
}
