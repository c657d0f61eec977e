{{/* The pod of a hook: `include "ondemand-disk.hookPod" (list . "uninstall")`. */}}
{{- define "ondemand-disk.hookPod" -}}
{{- $task := index . 1 }}
{{- with index . 0 }}
restartPolicy: Never
serviceAccountName: {{ include "ondemand-disk.fullname" . }}-hooks
securityContext:
  {{- include "ondemand-disk.podSecurityContext" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: {{ $task }}
    image: {{ include "ondemand-disk.image" . | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: [node, /hooks/hooks.mjs, {{ $task }}]
    env:
      - name: RELEASE_NAMESPACE
        value: {{ .Release.Namespace | quote }}
      - name: DEPLOYMENT
        value: {{ include "ondemand-disk.fullname" . | quote }}
      - name: WATCH_NAMESPACE
        value: {{ .Values.watchNamespace | quote }}
      {{- if .Values.defaultPool.enabled }}
      - name: POOL
        value: {{ .Values.defaultPool.name | quote }}
      - name: POOL_NAMESPACE
        value: {{ default .Release.Namespace .Values.watchNamespace | quote }}
      {{- end }}
      - name: ALLOW_WITH_DISKS
        value: {{ .Values.uninstall.allowWithDisks | quote }}
    securityContext:
      {{- include "ondemand-disk.containerSecurityContext" . | nindent 6 }}
    resources:
      requests:
        cpu: 10m
        memory: 64Mi
      limits:
        memory: 128Mi
    volumeMounts:
      - name: hooks
        mountPath: /hooks
volumes:
  - name: hooks
    configMap:
      name: {{ include "ondemand-disk.fullname" . }}-hooks
{{- with .Values.operator.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
