{{/* At most 43 characters: with `-consumer` 52, the longest name of a StatefulSet whose pods can be made
     (theirs and a hash of 10 are a label, and one ends at 63). */}}
{{- define "rq.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 43 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 43 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of a role. Takes (list . ROLE). */}}
{{- define "rq.selector" -}}
{{- $top := index . 0 -}}
app.kubernetes.io/name: {{ $top.Chart.Name }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Takes (list . ROLE). */}}
{{- define "rq.labels" -}}
{{- $top := index . 0 -}}
{{ include "rq.selector" . }}
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $top.Chart.Name $top.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "rq.image" -}}
{{- $repository := required "image.repository: say where the image is" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The environment of every role. Secrets are files below /secrets (RQ_SECRETS_DIR). A number of `settings`
     is written in full: Helm's own way ends in 2.147483648e+10. */}}
{{- define "rq.environment" -}}
- {name: RQ_SECRETS_DIR, value: /secrets}
- {name: RQ_HOST, value: 0.0.0.0}
- name: RQ_KAFKA_BOOTSTRAP
  value: {{ required "kafka.bootstrap: say host:port of the brokers" .Values.kafka.bootstrap | quote }}
- name: RQ_KAFKA_SECURITY_PROTOCOL
  value: {{ .Values.kafka.securityProtocol }}
{{- if .Values.kafka.saslUsername }}
- name: RQ_KAFKA_SASL_MECHANISM
  value: {{ .Values.kafka.saslMechanism }}
- name: RQ_KAFKA_SASL_USERNAME
  value: {{ .Values.kafka.saslUsername | quote }}
{{- end }}
{{- if .Values.kafka.clientSecret }}
- {name: RQ_KAFKA_SSL_CERTFILE, value: /kafka/tls.crt}
- {name: RQ_KAFKA_SSL_KEYFILE, value: /kafka/tls.key}
{{- end }}
{{- if .Values.caSecret }}
- {name: RQ_CA_FILE, value: /ca/ca.crt}
{{- end }}
- name: RQ_REGISTRY_URL
  value: {{ required "registry.url: say where the registry answers" .Values.registry.url | quote }}
{{- if .Values.registry.username }}
- name: RQ_REGISTRY_USERNAME
  value: {{ .Values.registry.username | quote }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "rq.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "rq.mounts" -}}
- {name: secrets, mountPath: /secrets, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if .Values.kafka.clientSecret }}
- {name: kafka, mountPath: /kafka, readOnly: true}
{{- end }}
{{- if .Values.caSecret }}
- {name: ca, mountPath: /ca, readOnly: true}
{{- end }}
{{- end -}}

{{/* What a pod is beside its container. Takes (list . (dict SETTING KEY-OF-THE-SECRET, of those that it needs)
     WHETHER-IT-ASKS-THE-REGISTRY WHETHER-IT-OPENS-DOORS). */}}
{{- define "rq.pod" -}}
{{- $top := index . 0 -}}
automountServiceAccountToken: false
{{- with $top.Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with $top.Values.imagePullSecrets }}
imagePullSecrets:{{ toYaml . | nindent 2 }}
{{- end }}
{{- with $top.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $top.Values.nodeSelector }}
nodeSelector:{{ toYaml . | nindent 2 }}
{{- end }}
{{- with $top.Values.tolerations }}
tolerations:{{ toYaml . | nindent 2 }}
{{- end }}
{{- with $top.Values.affinity }}
affinity:{{ toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
  - name: secrets
    projected:
      defaultMode: 0440
      sources:
        - secret:
            name: {{ required "existingSecret: name the Secret that holds the settings that are secret" $top.Values.existingSecret }}
            items:
            {{- range $setting, $key := index . 1 }}
              - {key: {{ $key }}, path: {{ $setting }}}
            {{- end }}
        {{- $wanted := list }}
        {{- if $top.Values.kafka.saslUsername }}{{ $wanted = append $wanted "RQ_KAFKA_SASL_PASSWORD" }}{{ end }}
        {{- if and $top.Values.registry.username (index . 2) }}{{ $wanted = append $wanted "RQ_REGISTRY_PASSWORD" }}{{ end }}
        {{- range $wanted }}
        - secret:
            name: {{ $top.Values.existingSecret }}
            items: [{key: {{ . }}, path: {{ . }}}]
        {{- end }}
  {{- with $top.Values.kafka.clientSecret }}
  - name: kafka
    secret: {secretName: {{ . }}, defaultMode: 0440}
  {{- end }}
  {{- with $top.Values.caSecret }}
  - name: ca
    secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: ca.crt, path: ca.crt}]}
  {{- end }}
  {{- if and $top.Values.tlsSecret (index . 3) }}
  - name: tls
    secret: {secretName: {{ $top.Values.tlsSecret }}, defaultMode: 0440}
  {{- end }}
{{- end -}}

{{- define "rq.scheme" -}}{{ ternary "https" "http" (not (empty .Values.tlsSecret)) }}{{- end -}}

{{/* Alive, and ready; a first start may wait for Kafka and Postgres. Takes (list . PORT). */}}
{{- define "rq.probes" -}}
{{- $asked := printf "port: %s, scheme: %s" (index . 1) (include "rq.scheme" (index . 0) | upper) -}}
startupProbe:
  httpGet: {path: /healthz, {{ $asked }}}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, {{ $asked }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, {{ $asked }}}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}

{{/* Pods of a role on different nodes where there are some. Takes (list . ROLE). */}}
{{- define "rq.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:{{ include "rq.selector" . | nindent 8 }}
{{- end -}}

{{/* Takes (list . ROLE). */}}
{{- define "rq.pod-metadata" -}}
{{- $top := index . 0 -}}
labels:{{ include "rq.labels" . | nindent 2 }}
{{- with $top.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $top.Values.podAnnotations }}
annotations:{{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Takes (dict "top" . "role" ROLE "values" VALUES "exact" (list PATH) "below" (list PATH)). What is not
     named is not let in: `/metrics` tells who stores how much. */}}
{{- define "rq.ingress" -}}
{{- $top := .top -}}
{{- with .values.ingress }}
{{- if .enabled }}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ include "rq.name" $top }}-{{ $.role }}
  labels:{{ include "rq.labels" (list $top $.role) | nindent 4 }}
  {{- with .annotations }}
  annotations:{{ toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .className }}
  ingressClassName: {{ . }}
  {{- end }}
  {{- with .tlsSecret }}
  tls: [{secretName: {{ . }}, hosts: [{{ $.values.ingress.host | quote }}]}]
  {{- end }}
  rules:
    - host: {{ required (printf "%s.ingress.host: name it" $.role) .host | quote }}
      http:
        paths:
          {{- range $type, $paths := dict "Exact" $.exact "Prefix" $.below }}
          {{- range $paths }}
          - path: {{ . }}
            pathType: {{ $type }}
            backend: {service: {name: {{ include "rq.name" $top }}-{{ $.role }}, port: {name: http}}}
          {{- end }}
          {{- end }}
{{- end }}
{{- end }}
{{- end -}}
