{{- define "ondemand-disk.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Names of cluster-wide objects begin with it. Short enough for every suffix that follows. */}}
{{- define "ondemand-disk.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "ondemand-disk.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "ondemand-disk.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "ondemand-disk.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "ondemand-disk.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Releases in one namespace that look after different ones must not wait for one another. At most 63 characters. */}}
{{- define "ondemand-disk.leaseName" -}}
ondemand-disk-operator
{{- with .Values.watchNamespace }}-
{{- if gt (len .) 40 }}{{ trunc 31 . | trimSuffix "-" }}-{{ sha256sum . | trunc 8 }}{{ else }}{{ . }}{{ end }}
{{- end }}
{{- end }}

{{- define "ondemand-disk.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* What finds the operator's pods; never changes during a release's life. */}}
{{- define "ondemand-disk.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ondemand-disk.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end }}

{{/* What finds the pods of a part of the CSI driver: the list of . and the part. */}}
{{- define "ondemand-disk.csiSelectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "ondemand-disk.name" $root | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "ondemand-disk.labels" -}}
{{- include "ondemand-disk.labelsAnd" (list . dict) }}
{{- end }}

{{/*
The labels of an object for which some values have more: `include "ondemand-disk.labelsAnd" (list . LABELS)`. The chart's own
win, then those of the object: a key that stands twice is refused, and selectors count on them.
*/}}
{{- define "ondemand-disk.labelsAnd" -}}
{{- $more := default dict (index . 1) }}
{{- with index . 0 }}
{{- $own := dict
  "app.kubernetes.io/name" (include "ondemand-disk.name" .)
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/part-of" "ondemand-disk"
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_")
}}
{{- $given := merge dict $more (default dict .Values.commonLabels) }}
{{- toYaml (merge $own (omit $given "app.kubernetes.io/component")) }}
{{- end }}
{{- end }}

{{/* Pod Security "restricted". The user's number is the image's. */}}
{{- define "ondemand-disk.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10809
runAsGroup: 10809
fsGroup: 10809
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "ondemand-disk.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
