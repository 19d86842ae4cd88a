//! `green-api-bridge emulator`: the emulator from the command line.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};

use super::Emulator;
use super::control::{HELP, fits_a_path};

/// Run the Green API queue as a local server, for anyone's tests
///
/// Point a client's apiUrl at the address it prints. It keeps notifications in memory, hands them out through
/// receiveNotification and forgets them on deleteNotification, as the real service does, and it can be told through
/// control endpoints what to queue and what to get wrong. No account is needed and nothing leaves this machine.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub struct Arguments {
    /// Where to listen; port 0 takes a free one
    ///
    /// The control endpoints take no token: keep this on the loopback interface.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// An instance to serve: idInstance and apiTokenInstance; repeat it for more
    #[arg(long = "instance", value_name = "ID:TOKEN", required = true)]
    pub instances: Vec<InstanceArgument>,
}

/// An id and its token, as typed: `ID:TOKEN`, both of letters, digits, `-` and `_`.
#[derive(Clone, Debug)]
pub struct InstanceArgument {
    id: String,
    token: SecretString,
}

impl FromStr for InstanceArgument {
    type Err = &'static str;

    /// # Errors
    ///
    /// It is not of that form. The reason does not repeat it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some((id, token)) if fits_a_path(id) && fits_a_path(token) => {
                Ok(Self { id: id.to_owned(), token: SecretString::from(token) })
            }
            _ => Err("expected ID:TOKEN, both of letters, digits, `-` and `_`, such as 1101000001:secret"),
        }
    }
}

/// Serves until `stop` is ready.
///
/// Says on stderr where it listens, never the tokens.
///
/// # Errors
///
/// The address cannot be bound, or an instance id is given twice.
pub async fn serve(arguments: Arguments, stop: impl Future<Output = ()>) -> io::Result<()> {
    let ids: Vec<_> = arguments.instances.iter().map(|instance| instance.id.clone()).collect();
    let instances =
        arguments.instances.into_iter().map(|instance| (instance.id, instance.token.expose_secret().to_owned()));
    let emulator = Emulator::start(arguments.listen, instances).await?;
    let url = emulator.url();
    eprintln!("Green API emulator on {}; how to control it: curl {url}/_emulator/", emulator.address());
    for id in ids {
        eprintln!("instance {id}: apiUrl {url}");
    }
    stop.await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    #[test]
    fn an_instance_is_an_id_and_a_token() {
        let instance: InstanceArgument = "1101000001:secret".parse().expect("well formed");
        assert_eq!(instance.id, "1101000001");
        assert_eq!(instance.token.expose_secret(), "secret");
        for wrong in ["", "1101000001", "1101000001:", ":secret", "1101000001:se/cret", "1:2:3"] {
            assert!(wrong.parse::<InstanceArgument>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_takes_several_instances_and_at_least_one() {
        let parse = |line: &str| {
            let command = Arguments::augment_args(Command::new("emulator"));
            let matches = command.try_get_matches_from(line.split(' '))?;
            Arguments::from_arg_matches(&matches)
        };
        let arguments = parse("emulator --instance 1:one --instance 2:two").expect("well formed");
        assert_eq!(arguments.listen, SocketAddr::from(([127, 0, 0, 1], 8080)));
        assert_eq!(arguments.instances.len(), 2);
        assert!(parse("emulator --listen 127.0.0.1:0").is_err());
    }

    #[tokio::test]
    async fn it_serves_until_it_is_told_to_stop() {
        let arguments =
            |listen| Arguments { listen, instances: vec!["1101000001:secret".parse().expect("well formed")] };
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        serve(arguments(any_port), async {}).await.expect("it stops");
        let taken = tokio::net::TcpListener::bind(any_port).await.expect("a free port");
        let address = taken.local_addr().expect("an address");
        let refused = serve(arguments(address), std::future::pending()).await;
        assert_eq!(refused.expect_err("the port is taken").kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn arguments_do_not_show_the_token() {
        let arguments = Arguments {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            instances: vec!["1101000001:t0psecret".parse().expect("well formed")],
        };
        let shown = format!("{arguments:?}");
        assert!(shown.contains("1101000001") && !shown.contains("t0psecret"), "{shown}");
    }
}
