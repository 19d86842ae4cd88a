// Package apiserver pins what tests/helm/api builds: Kubernetes' own API server, from its modules.
package apiserver

import _ "k8s.io/kubernetes/cmd/kube-apiserver/app"
