//! The states of an account, as named by `getStateInstance` and `stateInstanceChanged`. The queue can be read in all of them;
//! they differ in whether new messages arrive.

/// The state of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccountState {
    Authorized,
    NotAuthorized,
    Blocked,
    Starting,
    Suspended,
    YellowCard,
    SleepMode,
    PendingPassword,
    /// Not documented.
    Other,
}

impl AccountState {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Authorized,
        Self::NotAuthorized,
        Self::Blocked,
        Self::Starting,
        Self::Suspended,
        Self::YellowCard,
        Self::SleepMode,
        Self::PendingPassword,
        Self::Other,
    ];

    /// The state with this name at Green API.
    pub fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|state| state.name() == name).unwrap_or(Self::Other)
    }

    /// Its name at Green API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authorized => "authorized",
            Self::NotAuthorized => "notAuthorized",
            Self::Blocked => "blocked",
            Self::Starting => "starting",
            Self::Suspended => "suspended",
            Self::YellowCard => "yellowCard",
            Self::SleepMode => "sleepMode",
            Self::PendingPassword => "pendingPassword",
            Self::Other => "other",
        }
    }

    /// Whether new messages are known to arrive.
    pub fn receives(self) -> bool {
        matches!(self, Self::Authorized | Self::Suspended | Self::YellowCard)
    }

    /// Whether no messages arrive until somebody logs in. An account that is starting needs nobody, and about undocumented
    /// states nothing is known.
    pub fn needs_login(self) -> bool {
        !self.receives() && !matches!(self, Self::Starting | Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_is_found_by_its_name() {
        for state in AccountState::ALL {
            assert_eq!(AccountState::named(state.name()), state);
        }
        assert_eq!(AccountState::named("inAnotherWorld"), AccountState::Other);
        assert_eq!(AccountState::named("Authorized"), AccountState::Other);
    }

    #[test]
    fn no_state_both_receives_and_needs_a_login() {
        let names = |is_one: fn(AccountState) -> bool| {
            AccountState::ALL.into_iter().filter(|state| is_one(*state)).map(AccountState::name).collect::<Vec<_>>()
        };
        assert_eq!(names(AccountState::receives), ["authorized", "suspended", "yellowCard"]);
        assert_eq!(names(AccountState::needs_login), ["notAuthorized", "blocked", "sleepMode", "pendingPassword"]);
    }
}
