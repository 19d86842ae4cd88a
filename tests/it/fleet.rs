use crate::scene::{Scene, numbered};

/// `run` with a config file into a file.
const INTO_FILE: &str = "{file: {path: out.jsonl}}";

#[tokio::test(flavor = "multi_thread")]
async fn many_instances_share_a_file_keep_their_own_order_and_one_that_is_refused_disturbs_nobody() {
    let bodies = numbered(30);
    let mut scene = Scene::fleet(20, &bodies).await;
    scene.emulator.set_token(&scene.instances[0], "another");
    let _worker = scene.start_with("bridge", INTO_FILE);
    let refused = scene.instances.remove(0);
    scene.drained();
    assert_eq!(scene.emulator.queued(&refused), 30);
    assert!(scene.bodies_of(&refused).is_empty());
    assert!(scene.instances.iter().all(|id| scene.bodies_of(id) == bodies));
}
