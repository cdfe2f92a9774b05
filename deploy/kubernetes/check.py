#!/usr/bin/env python3
"""Builds the example and the base with kustomize, as `kubectl apply -k` would, validates them against the schemas of three versions
of Kubernetes, and asserts what no schema knows: the restricted pod security standard field by field, and what this relay needs.

`make manifests` runs it. It needs no cluster. Where kube-score is installed (https://github.com/zegl/kube-score) it is asked, too.
"""
import copy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import yaml

HERE = Path(__file__).resolve().parent
KUBECTL = Path(sys.executable).parent / "kubectl"
VERSIONS = ["1.29", "1.33", "1.37"]
# Kinds of operators; their schemas are not in Kubernetes, so what they must have is asserted here.
FOREIGN = {
    "PodMonitor": ("spec.selector.matchLabels", "spec.podMetricsEndpoints"),
    "PrometheusRule": ("spec.groups",),
    "ScaledObject": ("spec.scaleTargetRef.name", "spec.triggers"),
}

# What kube-score recommends and we do not do, with the reason.
OUR_OWN_WAY = {
    "container-resources": "a limit of CPU throttles a leader that has to raise its beat",
    "container-image-pull-policy": "an image named by digest cannot change, and a registry that is away must not stop a restart",
    "deployment-has-host-podantiaffinity": "topologySpreadConstraints spread the pods over hosts and zones",
}


def text_of(directory):
    ran = subprocess.run([KUBECTL, "kustomize", HERE / directory], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        sys.exit(f"kustomize {directory}: {ran.stderr}")
    return ran.stdout


def build(directory):
    return [one for one in yaml.safe_load_all(text_of(directory)) if one]


def score(directory):
    """What kube-score says of it, in one word; ends with its complaints if it has any."""
    if not shutil.which("kube-score"):
        return "is not installed"
    ignored = [argument for test in OUR_OWN_WAY for argument in ("--ignore-test", test)]
    ran = subprocess.run(["kube-score", "score", "--output-format", "ci", "--exit-one-on-warning", *ignored, "-"],
                         input=text_of(directory), capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        bad = [line for line in ran.stdout.splitlines() if not line.startswith(("[OK]", "[SKIPPED]"))]
        sys.exit(f"kube-score, {directory}:\n" + "\n".join(bad) + ran.stderr)
    return "agrees"


def at(document, path):
    for name in path.split("."):
        document = (document or {}).get(name)
    return document


def pod_of(document):
    """The pod's spec and labels, wherever this kind keeps them."""
    for path in ("spec.template", "spec.jobTemplate.spec.template"):
        template = at(document, path)
        if template:
            return template["spec"], template["metadata"]["labels"]
    return None, None


def problems(documents):
    """What is wrong, a sentence each."""
    found = []
    by_kind = {}
    for document in documents:
        by_kind.setdefault(document["kind"], []).append(document)
        name = f"{document['kind']} {document['metadata']['name']}"

        def must(holds, what, name=name):
            if not holds:
                found.append(f"{name}: {what}")

        for path in FOREIGN.get(document["kind"], ()):
            must(at(document, path), f"{path} is missing")
        if document["kind"] not in FOREIGN:
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(copy.deepcopy(document), version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    must(False, f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message[:200]}")
        pod, labels = pod_of(document)
        if pod is None:
            continue
        # The restricted standard, and what it leaves open.
        context = pod.get("securityContext", {})
        must(context.get("runAsNonRoot") is True, "runs as root")
        must(context.get("runAsUser", 0) > 0 and context.get("runAsGroup", 0) > 0, "has no user and group of its own")
        must(at(context, "seccompProfile.type") == "RuntimeDefault", "has no seccomp profile")
        must(not any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")), "shares a namespace of the host")
        must(pod.get("automountServiceAccountToken") is False, "gets a token of Kubernetes")
        must(pod.get("enableServiceLinks") is False, "gets the addresses of all services")
        must(not context.get("sysctls"), "sets sysctls")
        template = at(document, "spec.template") or at(document, "spec.jobTemplate.spec.template")
        must(not any("apparmor" in key for key in template["metadata"].get("annotations", {})), "takes its AppArmor profile away")
        for one in [context] + [container.get("securityContext", {}) for container in pod["containers"]]:
            # What a container says of itself goes before what its pod says.
            must(one.get("runAsUser", 1) != 0 and one.get("runAsGroup", 1) != 0, "a container runs as root")
            must("appArmorProfile" not in one, "takes its AppArmor profile away")
            must(not at(one, "windowsOptions.hostProcess"), "is a process of the host")
        must(not any(group == 0 for group in [context.get("fsGroup"), *context.get("supplementalGroups", [])]), "is in root's group")
        must("initContainers" not in pod and "ephemeralContainers" not in pod, "has containers that are not looked at here")
        allowed = {"configMap", "secret", "emptyDir", "projected", "downwardAPI", "csi", "persistentVolumeClaim", "ephemeral"}
        for volume in pod.get("volumes", []):
            must(set(volume) - {"name"} <= allowed, f"volume {volume['name']} is of a forbidden kind")
        for container in pod["containers"]:
            own = container.get("securityContext", {})
            must(own.get("allowPrivilegeEscalation") is False, "may gain privileges")
            must(own.get("privileged") is False, "is privileged")
            must(own.get("readOnlyRootFilesystem") is True, "writes to its image")
            must(own.get("runAsNonRoot") is True, "its container may run as root")
            must(own.get("capabilities") == {"drop": ["ALL"]}, "keeps capabilities")
            must(at(own, "seccompProfile.type") == "RuntimeDefault", "its container has no seccomp profile")
            must("procMount" not in own and "seLinuxOptions" not in own, "sets procMount or SELinux options")
            must(not any(port.get("hostPort") for port in container.get("ports", [])), "takes a port of the host")
            must("@sha256:" in container["image"] and len(container["image"].split("@sha256:")[1]) == 64,
                 "its image is not named by digest")
            must(at(container, "resources.requests.cpu") and at(container, "resources.requests.memory"), "requests nothing")
            must(at(container, "resources.limits.memory"), "has no limit of memory")
            must("cpu" not in (at(container, "resources.limits") or {}), "a throttled leader cannot raise its beat")
            must(not container.get("env") and not container.get("envFrom"), "has an environment, where secrets leak from")
            mounts = container.get("volumeMounts", [])
            must(all(mount.get("readOnly") is True for mount in mounts), "mounts something that it could write to")
        must(labels.get("app.kubernetes.io/name") == "outbox-relay", "is not labelled")
        for volume in pod.get("volumes", []):
            if "secret" in volume:
                must(volume["secret"].get("defaultMode") == 0o440, "its secret can be read by others")

    def only(kind):
        if len(by_kind.get(kind, [])) != 1:
            found.append(f"there are {len(by_kind.get(kind, []))} of kind {kind}, not one")
            return {}
        return by_kind[kind][0]

    deployment = only("Deployment")
    pod, labels = pod_of(deployment)
    if pod:
        def must(holds, what):
            if not holds:
                found.append(f"Deployment: {what}")

        must(deployment["spec"]["replicas"] >= 2, "a lone relay has no standby")
        must(deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}, "a roll-out leaves a gap")
        must(deployment["spec"]["selector"]["matchLabels"].items() <= labels.items(), "does not select its pods")
        probes = pod["containers"][0]
        for probe, path in (("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            must(at(probes, f"{probe}.httpGet.path") == path, f"{probe} does not ask {path}")
        must({one["topologyKey"] for one in pod.get("topologySpreadConstraints", [])}
             == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}, "is not spread over zones and hosts")
        for one in pod.get("topologySpreadConstraints", []):
            must(one["labelSelector"]["matchLabels"].items() <= labels.items(), "is spread by labels that its pods lack")
        maps = {one["metadata"]["name"]: one["data"] for one in by_kind.get("ConfigMap", [])}
        name = next((one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one), None)
        must(name in maps, f"its config map {name} does not exist")
        settings = tomllib.loads(maps.get(name, {}).get("outbox-relay.toml", ""))
        drain = int(settings.get("relay", {}).get("drain_timeout", "20s").removesuffix("s"))
        must(pod["terminationGracePeriodSeconds"] >= drain + 15, f"is killed before it has drained for {drain} s")
        must("url" not in settings.get("postgres", {}), "has the database's password in its configuration")
        must(not [key for key in settings["kafka"].get("properties", {}) if "password" in key], "has a password in its configuration")
        budget = only("PodDisruptionBudget").get("spec", {})
        must(budget.get("maxUnavailable") == 1 and "minAvailable" not in budget, "no node can be drained, or both relays go")
        must(budget.get("selector", {}).get("matchLabels", {"": ""}).items() <= labels.items(), "its budget is of other pods")
        for policy in by_kind.get("NetworkPolicy", []):
            must(policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items(), "its network policy is of other pods")
            must(sorted(policy["spec"]["policyTypes"]) == ["Egress", "Ingress"], "its network policy leaves a direction open")
            ports = sorted(port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"])
            must(ports == [53, 53, 5432, 9093], f"may talk to ports {ports}")
            must(all(rule.get("to") for rule in policy["spec"]["egress"]), "may talk to anybody")
            must([port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]] == [9464], "listens elsewhere")
        for monitor in by_kind.get("PodMonitor", []):
            must(monitor["spec"]["selector"]["matchLabels"].items() <= labels.items(), "is not what the monitor scrapes")
            named = {port["name"] for port in probes["ports"]}
            must({one["port"] for one in monitor["spec"]["podMetricsEndpoints"]} <= named, "the monitor asks an unknown port")
    for job in by_kind.get("CronJob", []):
        if job["spec"].get("concurrencyPolicy") != "Forbid":
            found.append(f"CronJob {job['metadata']['name']}: may run twice at once")
        if "requeue" in job["metadata"]["name"] and job["spec"].get("suspend") is not True:
            found.append("CronJob of requeues: is not suspended")
    return found


def breakages(documents):
    """Copies of the manifests with one thing broken, and words of the problem that has to be found."""
    def broken(change, words):
        changed = copy.deepcopy(documents)
        change({one["kind"]: one for one in reversed(changed)})
        return changed, words

    pod = lambda kinds: kinds["Deployment"]["spec"]["template"]["spec"]
    first = lambda kinds: pod(kinds)["containers"][0]
    yield broken(lambda k: k["Deployment"]["spec"].update(replica=3), "replica")
    yield broken(lambda k: pod(k)["securityContext"].pop("runAsNonRoot"), "runs as root")
    yield broken(lambda k: first(k)["securityContext"].update(readOnlyRootFilesystem=False), "writes to its image")
    yield broken(lambda k: first(k)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]), "keeps capabilities")
    yield broken(lambda k: first(k).update(env=[{"name": "DATABASE_URL", "value": "x"}]), "has an environment")
    yield broken(lambda k: first(k).update(image="outbox-relay:latest"), "not named by digest")
    yield broken(lambda k: pod(k).update(terminationGracePeriodSeconds=30), "killed before it has drained")
    yield broken(lambda k: pod(k).update(hostPID=True), "shares a namespace")
    yield broken(lambda k: first(k)["securityContext"].update(runAsUser=0), "runs as root")
    yield broken(lambda k: first(k)["securityContext"].update(appArmorProfile={"type": "Unconfined"}), "AppArmor")
    yield broken(lambda k: first(k)["securityContext"].update(windowsOptions={"hostProcess": True}), "process of the host")
    yield broken(lambda k: pod(k)["securityContext"].update(supplementalGroups=[0]), "root's group")
    yield broken(lambda k: pod(k)["securityContext"].pop("seccompProfile"), "seccomp")
    yield broken(lambda k: first(k)["securityContext"].update(allowPrivilegeEscalation=True), "gain privileges")
    yield broken(lambda k: first(k)["readinessProbe"]["httpGet"].update(path="/livez"), "readinessProbe")
    yield broken(lambda k: pod(k)["volumes"].append({"name": "host", "hostPath": {"path": "/"}}), "forbidden kind")
    yield broken(lambda k: k["PodDisruptionBudget"]["spec"].update(minAvailable=2), "no node can be drained")
    yield broken(lambda k: k["Deployment"]["spec"].update(replicas=1), "lone relay")


def main():
    example, base = build("example"), build("base")
    for name, documents in (("base", base), ("example", example)):
        found = problems(documents)
        if found:
            sys.exit(f"{name}:\n" + "\n".join(f"- {one}" for one in found))
    # A check that cannot fail proves nothing.
    count = 0
    for documents, words in breakages(example):
        if not any(words in one for one in problems(documents)):
            sys.exit(f"nothing was found where something was broken: {words}")
        count += 1
    kinds = sorted({one["kind"] for one in example})
    print(f"{len(example)} manifests of {len(kinds)} kinds fit Kubernetes {', '.join(VERSIONS)}; {count} breakages were found; "
          f"kube-score {score('example')}")


if __name__ == "__main__":
    main()
