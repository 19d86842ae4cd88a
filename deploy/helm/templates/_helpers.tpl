{{- define "bridge.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "bridge.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "bridge.selector" -}}
app.kubernetes.io/name: {{ include "bridge.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bridge.labels" -}}
{{ include "bridge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The port of the admin server, from the config. */}}
{{- define "bridge.adminPort" -}}
{{- $listen := (.Values.config.admin | default dict).listen | default "" -}}
{{- if not $listen }}{{ fail "config.admin.listen is needed: the probes ask it" }}{{ end -}}
{{- regexFind "[0-9]+$" $listen -}}
{{- end -}}

{{/* The ports of outgoing connections: HTTPS, those of the API, the brokers and the proxy, and those given. One a line. */}}
{{- define "bridge.egressPorts" -}}
{{- $ports := list "443" -}}
{{- range .Values.config.instances -}}
{{- with regexFind ":[0-9]+(/|$)" (trimPrefix "http:" (trimPrefix "https:" .api_url)) }}{{ $ports = append $ports (regexFind "[0-9]+" .) }}{{ end -}}
{{- if hasPrefix "http://" .api_url }}{{ $ports = append $ports "80" }}{{ end -}}
{{- end -}}
{{- with .Values.config.sink.kafka -}}
{{- range .bootstrap_servers | default (list "localhost:9092") }}{{ $ports = append $ports (regexFind "[0-9]+$" .) }}{{ end -}}
{{- end -}}
{{- with .Values.config.sink.amqp -}}
{{- $uris := list "amqp://localhost" -}}
{{- with .uri }}{{ $uris = ternary . (list .) (kindIs "slice" .) }}{{ end -}}
{{- range $uris -}}
{{- $port := regexFind ":[0-9]+(/|[?]|$)" (regexReplaceAll "^[a-z]+://([^/]*@)?" . "") -}}
{{- $ports = append $ports (regexFind "[0-9]+" $port | default (ternary "5671" "5672" (hasPrefix "amqps:" .))) -}}
{{- end -}}
{{- if .uri_file }}{{ $ports = concat $ports (list "5671" "5672") }}{{ end -}}
{{- end -}}
{{- with (.Values.config.api | default dict).proxy -}}
{{- $ports = append $ports (regexFind "[0-9]+$" (trimSuffix "/" .) | default (ternary "443" "80" (hasPrefix "https:" .))) -}}
{{- end -}}
{{- range .Values.networkPolicy.egressPorts }}{{ $ports = append $ports (toString (int .)) }}{{ end -}}
{{- $ports | uniq | sortAlpha | join "\n" -}}
{{- end -}}
